//! WS-Management as management clients speak it: requests into [`Message`]s ([`decode()`]), answers and faults into envelopes
//! ([`encode`], [`fault`]), instances and references in both directions ([`item`]). What a request asks for is carried out
//! elsewhere: here are no contexts, no subscriptions, no sockets.
//!
//! Answers use fixed prefixes, `s a w n e x b cim xsi` declared on the envelope and `p` on what belongs to a class, because
//! some clients look names up by prefix.

pub mod decode;
mod elements;
pub mod encode;
mod envelope;
pub mod eventing;
pub mod fault;
mod filter;
pub mod headers;
pub mod item;
pub mod uri;
mod value;

use std::time::Duration;

use crate::raw::{Raw, RawInstance};
use crate::wql::Query;

pub use decode::decode;
pub use eventing::{DeliveryMode, Endpoint, Subscribe};
pub use fault::{Fault, FaultKind};
pub use headers::Headers;
pub use item::Encoder;
pub use uri::{Family, ResourceUri};

/// Namespaces of the protocol, of what it carries, and of Microsoft's extensions.
pub mod ns {
    /// SOAP 1.2.
    pub const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
    /// WS-Addressing.
    pub const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
    /// WS-Management.
    pub const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
    /// WS-Enumeration.
    pub const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
    /// WS-Transfer.
    pub const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
    /// WS-Eventing.
    pub const EVENTING: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing";
    /// The binding of CIM to WS-Management.
    pub const BINDING: &str = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd";
    /// Common types of CIM.
    pub const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
    /// Identify, which says which protocol and product answer.
    pub const IDENTITY: &str = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd";
    /// Instances of XML schemas.
    pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
    /// XML schemas; some clients mean [`XSI`] by it.
    pub const XSD: &str = "http://www.w3.org/2001/XMLSchema";
    /// Headers that Microsoft added.
    pub const EXTENSION: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd";
    /// Details of faults.
    pub const WSMAN_FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
    /// What the actions of WS-Management itself begin with.
    pub const WSMAN_ACTION: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman";
    /// The sender of the request: the answer goes back on its connection.
    pub const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
}

/// Most items of one answer, whatever a client asks for.
pub const MAX_ITEMS: usize = 32_000;
/// Smallest envelope that a client may insist on, bytes.
pub const MIN_ENVELOPE: usize = 8192;
/// Largest envelope of an answer, bytes; also when the client says nothing.
pub const MAX_ENVELOPE: usize = 512_000;
/// Namespace that a request of the DMTF family means when it does not say.
pub const DEFAULT_NAMESPACE: &str = "root/virtualization/v2";

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What came in the header.
    pub headers: Headers,
    /// What is asked for.
    pub operation: Operation,
}

/// What is asked for. The class and the instance are in the headers.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Who are you?
    Identify,
    /// An instance.
    Get,
    /// A class, as CIM-XML.
    GetClass {
        /// Class as written; the namespace is in the headers.
        class: String,
    },
    /// Change an instance.
    Put(RawInstance),
    /// Make an instance.
    Create(RawInstance),
    /// Remove an instance.
    Delete,
    /// Begin an enumeration.
    Enumerate(Enumerate),
    /// Begin one of classes, each as CIM-XML.
    EnumerateClasses {
        /// Those below this one, or all.
        below: Option<String>,
        /// Only how the items come counts: `optimised` and `max_elements`.
        enumerate: Enumerate,
    },
    /// Go on with one.
    Pull(Pull),
    /// End one early.
    Release {
        /// The context that the answer to Enumerate or to the last Pull gave.
        context: String,
    },
    /// Call a method.
    Invoke {
        /// Its name, as written.
        method: String,
        /// Arguments in the order they came, each name once.
        arguments: Vec<(String, Raw)>,
    },
    /// Subscribe to events.
    Subscribe(Subscribe),
    /// End a subscription.
    Unsubscribe {
        /// Which subscription.
        identifier: String,
    },
    /// Extend a subscription.
    Renew {
        /// Which subscription.
        identifier: String,
        /// Until when.
        expires: Option<Expires>,
    },
    /// A receiver has got events (PushWithAck, Events); an answer, not a request.
    Ack {
        /// Message id of what it got.
        relates_to: String,
    },
}

/// The beginning of an enumeration.
#[derive(Clone, Debug, PartialEq)]
pub struct Enumerate {
    /// Which instances; `None`: those of the class in the headers. A selector filter comes as the query it means.
    pub filter: Option<Query>,
    /// The first items come with the answer.
    pub optimised: bool,
    /// Most items of that answer, 1 to [`MAX_ITEMS`].
    pub max_elements: usize,
    /// What an item is.
    pub mode: Mode,
    /// How derived classes show.
    pub polymorphism: Polymorphism,
    /// How long the context shall live.
    pub expires: Option<Expires>,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The instance.
    Object,
    /// A reference to it.
    Reference,
    /// The instance and a reference to it, in one item.
    Both,
}

/// How instances of derived classes show in an enumeration of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polymorphism {
    /// As what they are.
    Include,
    /// Cut down to the class that was asked for.
    Exclude,
    /// Not at all.
    None,
}

/// Go on with an enumeration.
#[derive(Clone, Debug, PartialEq)]
pub struct Pull {
    /// The context that the answer to Enumerate or to the last Pull gave.
    pub context: String,
    /// Most items, 1 to [`MAX_ITEMS`]; 1 when the client does not say.
    pub max_elements: usize,
    /// Most characters of all items.
    pub max_characters: Option<usize>,
    /// Longest wait.
    pub max_time: Option<Duration>,
}

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// After this time.
    In(Duration),
    /// At this instant, microseconds since 1970-01-01 UTC.
    At(i64),
}
