//! CIM-XML (DSP0200, DSP0201): untrusted requests into typed operations, answers into text that can be sent while it is
//! being made, and indications for listeners. No HTTP: what its headers must say is checked by [`check_headers`].

mod classes;
mod decode;
mod encode;
mod export;
#[cfg(test)]
pub(crate) mod fixture;
mod headers;
mod parameters;
mod values;
mod write;

use crate::error::CimError;
use crate::path::InstanceName;
use crate::raw::{Raw, RawInstance};
use lifeboat_xml::XmlError;

pub use classes::{class_item, class_name_item, qualifier_item};
pub use decode::decode;
pub use encode::{Form, Page, Results, begin, end, error, method_response, nothing, unit};
pub use export::{ExportError, export_reply, export_request};
pub use headers::{HeaderMismatch, check_headers, extension_prefix};
pub use values::{ShapeError, decode_instance};
pub use write::encode_instance;

/// Largest body that a server should take, in bytes. Reading one this large costs about 100 MB at worst.
pub const MAX_BODY: usize = 4 * 1024 * 1024;

/// What an answer repeats of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// ID of the message.
    pub id: String,
    /// Name of the operation or method, as the client spelled it.
    pub name: String,
    /// An operation of DSP0200 rather than a method of a class.
    pub intrinsic: bool,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the answer repeats.
    pub head: Head,
    /// Namespace, components joined by slashes.
    pub namespace: String,
    /// What is asked.
    pub call: Call,
}

/// What a request asks.
#[derive(Clone, Debug)]
pub enum Call {
    /// An operation.
    Intrinsic(Intrinsic),
    /// The method `Request::head.name`.
    Method {
        /// Of this instance; without keys, of the class or of its only instance.
        target: InstanceName,
        /// Arguments as they came, no name twice in any case; the schema has not been asked for them.
        arguments: Vec<(String, Raw)>,
    },
}

/// What of an instance or a class is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Of a class, only what it declares itself. Of instances always everything is given (DSP0200 lets a server).
    pub local_only: bool,
    /// With qualifiers (classes only).
    pub qualifiers: bool,
    /// With the name of the class that declared each property.
    pub class_origin: bool,
    /// Only these properties; `None`: all. Unknown ones do not matter.
    pub properties: Option<Vec<String>>,
}

impl Default for View {
    /// Everything, without qualifiers and origins.
    fn default() -> Self {
        Self {
            local_only: false,
            qualifiers: false,
            class_origin: false,
            properties: None,
        }
    }
}

impl View {
    /// Whether this property is wanted.
    #[must_use]
    pub fn wants(&self, property: &str) -> bool {
        let named = |list: &Vec<String>| list.iter().any(|p| p.eq_ignore_ascii_case(property));
        self.properties.as_ref().is_none_or(named)
    }
}

/// A walk along associations.
#[derive(Clone, Debug)]
pub struct Relation {
    /// From this instance.
    pub source: InstanceName,
    /// The source is a class: the schema is asked, not the instances.
    pub of_class: bool,
    /// Only through this association class.
    pub association: Option<String>,
    /// Only to this class (for references: only associations of this class).
    pub result: Option<String>,
    /// The source's role.
    pub role: Option<String>,
    /// The other end's role.
    pub result_role: Option<String>,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryText {
    /// Language, as written (`WQL`, `DMTF:CQL`).
    pub language: String,
    /// The query as written; it has not been read.
    pub text: String,
}

/// What gives many instances or paths.
#[derive(Clone, Debug)]
pub enum Listing {
    /// Of a class and those derived from it.
    Instances {
        /// Name of the class, as written.
        class: String,
        /// What of them.
        view: View,
    },
    /// Their names.
    Names {
        /// Name of the class, as written.
        class: String,
    },
    /// The other ends.
    Associators {
        /// Where from and where to.
        relation: Relation,
        /// What of them.
        view: View,
    },
    /// Their paths.
    AssociatorNames {
        /// Where from and where to.
        relation: Relation,
    },
    /// The associations themselves.
    References {
        /// Where from.
        relation: Relation,
        /// What of them.
        view: View,
    },
    /// Their paths.
    ReferenceNames {
        /// Where from.
        relation: Relation,
    },
    /// What a query selects.
    Query(QueryText),
}

/// What a pull gives, which must fit to what was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// `PullInstancesWithPath`.
    InstancesWithPath,
    /// `PullInstancePaths`.
    Paths,
    /// `PullInstances`: of queries.
    Instances,
}

/// An operation of DSP0200.
#[derive(Clone, Debug)]
pub enum Intrinsic {
    /// One instance.
    GetInstance {
        /// Class and keys of it, as they came.
        name: InstanceName,
        /// What of it.
        view: View,
    },
    /// Many, in one answer.
    List(Listing),
    /// Many, in several answers.
    Open {
        /// What the enumeration gives: instances, paths, or the result of a query.
        listing: Listing,
        /// Most items of the first answer; 0: none.
        max: u32,
        /// Seconds for which the context must outlive a silent client; `None`: the server decides.
        timeout: Option<u32>,
        /// Only those that a filter query accepts.
        filter: Option<QueryText>,
    },
    /// More of what was opened.
    Pull {
        /// In which form.
        kind: Pulled,
        /// Which enumeration.
        context: String,
        /// Most items.
        max: u32,
    },
    /// Enough of what was opened.
    CloseEnumeration {
        /// Which enumeration.
        context: String,
    },
    /// One class.
    GetClass {
        /// Name of the class, as written.
        class: String,
        /// What of it.
        view: View,
    },
    /// Classes below one, or below none.
    EnumerateClasses {
        /// Below which; `None`: the topmost.
        class: Option<String>,
        /// Not only those directly below.
        deep: bool,
        /// What of them.
        view: View,
    },
    /// Their names.
    EnumerateClassNames {
        /// Below which; `None`: the topmost.
        class: Option<String>,
        /// Not only those directly below.
        deep: bool,
    },
    /// All qualifier declarations.
    EnumerateQualifiers,
    /// One qualifier declaration.
    GetQualifier {
        /// Name of the qualifier, as written.
        name: String,
    },
    /// A new instance.
    CreateInstance {
        /// As it came.
        instance: RawInstance,
    },
    /// A changed instance.
    ModifyInstance {
        /// Class and keys of the instance to change.
        name: InstanceName,
        /// As it came.
        instance: RawInstance,
        /// Only these properties; `None`: those that the instance has.
        properties: Option<Vec<String>>,
    },
    /// An instance less.
    DeleteInstance {
        /// Class and keys of the instance to delete.
        name: InstanceName,
    },
}

/// Why a request gets no answer of its own; always the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No XML.
    #[error("the request is not accepted: {0}")]
    Xml(#[from] XmlError),
    /// XML, but no request.
    #[error("the request is not valid CIM-XML: {0}")]
    NotValid(String),
    /// Another major version of CIM.
    #[error("CIMVERSION \"{0}\" is not spoken here, 2.x is")]
    CimVersion(String),
    /// Another major version of the DTD.
    #[error("DTDVERSION \"{0}\" is not spoken here, 2.x is")]
    DtdVersion(String),
    /// Another major version of the messages.
    #[error("PROTOCOLVERSION \"{0}\" is not spoken here, 1.x is")]
    ProtocolVersion(String),
    /// Several requests in one.
    #[error("several requests in one message (MULTIREQ) are not taken; send them one by one")]
    MultipleRequests,
    /// An indication: this is no listener.
    #[error("this is a server, no listener for indications")]
    NoListener,
    /// A request with a fault that can be answered in its own words: send [`error`] with status 200.
    #[error("{}: {error}", head.name)]
    Refused {
        /// What the answer repeats.
        head: Head,
        /// What is wrong.
        error: CimError,
    },
}

impl RequestError {
    /// Status of the HTTP answer.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Xml(_) | Self::NotValid(_) | Self::NoListener => 400,
            Self::CimVersion(_) | Self::DtdVersion(_) | Self::ProtocolVersion(_) | Self::MultipleRequests => {
                501
            }
            Self::Refused { .. } => 200,
        }
    }

    /// Value of the `CIMError` header of the HTTP answer.
    #[must_use]
    pub const fn cim_error(&self) -> Option<&'static str> {
        match self {
            Self::Xml(_) => Some("request-not-well-formed"),
            Self::NotValid(_) => Some("request-not-valid"),
            Self::CimVersion(_) => Some("unsupported-cim-version"),
            Self::DtdVersion(_) => Some("unsupported-dtd-version"),
            Self::ProtocolVersion(_) => Some("unsupported-protocol-version"),
            Self::MultipleRequests => Some("multiple-requests-unsupported"),
            Self::NoListener => Some("unsupported-operation"),
            Self::Refused { .. } => None,
        }
    }
}
