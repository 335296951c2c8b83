//! Faults: what each kind is called in the four protocols that WS-Management is made of, and the envelope that carries one.
//! Whether something is a fault at all is decided where it happens.

use super::envelope::envelope;
use super::ns;
use crate::error::{CimError, Status};
use lifeboat_xml::Writer;

/// A refusal of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// What and why, naming the thing.
    pub message: String,
    /// The status of CIM operations, when it came from one.
    pub status: Option<Status>,
    /// Message id of the request, byte for byte, if it could be read.
    pub relates_to: Option<String>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Not XML, or not an envelope.
    Malformed,
    /// An envelope of another version of SOAP.
    VersionMismatch,
    /// A header that must be understood and is not.
    MustUnderstand,
    /// A header of WS-Addressing is missing.
    HeaderRequired,
    /// A header of WS-Addressing makes no sense.
    InvalidHeader,
    /// No such class or namespace.
    InvalidResourceUri,
    /// No such instance.
    NotFound,
    /// The server is stopping.
    EndpointUnavailable,
    /// No such action, or not on this class.
    ActionNotSupported,
    /// The action does not belong to the resource.
    ActionMismatch,
    /// Keys are missing.
    InsufficientSelectors,
    /// Keys that the class does not have.
    UnexpectedSelectors,
    /// A key of the wrong type.
    SelectorTypeMismatch,
    /// A key twice.
    DuplicateSelectors,
    /// The user may not.
    AccessDenied,
    /// The body is not what the action wants.
    SchemaValidation,
    /// A parameter that cannot be used.
    InvalidParameter,
    /// A parameter that is not known.
    InvalidParameterName,
    /// A parameter of the wrong type.
    ParameterTypeMismatch,
    /// It exists already.
    AlreadyExists,
    /// Answers to another place than where the request came from.
    AddressingMode,
    /// An unknown mode of enumeration.
    EnumerationMode,
    /// Something optional that this server does not do.
    UnsupportedFeature,
    /// The server failed.
    InternalError,
    /// One item does not fit into the envelope the client allows.
    MaxEnvelopeSize,
    /// The request is too large.
    MaxEnvelopeSizeExceeded,
    /// The client allows less than every server needs.
    MinimumEnvelopeLimit,
    /// The answer is larger than this server makes.
    ServiceEnvelopeLimit,
    /// It took longer than the client allows.
    TimedOut,
    /// More than this server does at once for a user.
    QuotaLimit,
    /// An unknown query language.
    FilterDialect,
    /// A query that cannot be understood.
    CannotProcessFilter,
    /// The enumeration is unknown, was ended or has expired.
    InvalidEnumerationContext,
    /// An expiration time that cannot be.
    InvalidExpiration,
    /// The subscription cannot be prolonged.
    UnableToRenew,
    /// An unknown delivery mode.
    DeliveryMode,
    /// An unknown query language in a subscription.
    SubscriptionFilter,
    /// An expiration time of a subscription that cannot be.
    InvalidSubscriptionExpiration,
    /// A subscription that is unknown or cannot be made.
    InvalidSubscription,
}

/// What the parts of a fault are.
struct Shape {
    /// `s:Sender` and the like.
    code: &'static str,
    /// With the prefix that answers use.
    subcode: Option<&'static str>,
    /// Last part of the URI in `w:FaultDetail`.
    detail: Option<&'static str>,
    /// Last byte of the number in `f:WSManFault` (the numbers begin at 0x80338000).
    number: u32,
    /// Status of CIM operations that says the same.
    status: Status,
}

const SENDER: &str = "s:Sender";
const RECEIVER: &str = "s:Receiver";
/// Where the numbers of WS-Management begin.
const NUMBERS: u32 = 0x8033_8000;

impl FaultKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Malformed,
        Self::VersionMismatch,
        Self::MustUnderstand,
        Self::HeaderRequired,
        Self::InvalidHeader,
        Self::InvalidResourceUri,
        Self::NotFound,
        Self::EndpointUnavailable,
        Self::ActionNotSupported,
        Self::ActionMismatch,
        Self::InsufficientSelectors,
        Self::UnexpectedSelectors,
        Self::SelectorTypeMismatch,
        Self::DuplicateSelectors,
        Self::AccessDenied,
        Self::SchemaValidation,
        Self::InvalidParameter,
        Self::InvalidParameterName,
        Self::ParameterTypeMismatch,
        Self::AlreadyExists,
        Self::AddressingMode,
        Self::EnumerationMode,
        Self::UnsupportedFeature,
        Self::InternalError,
        Self::MaxEnvelopeSize,
        Self::MaxEnvelopeSizeExceeded,
        Self::MinimumEnvelopeLimit,
        Self::ServiceEnvelopeLimit,
        Self::TimedOut,
        Self::QuotaLimit,
        Self::FilterDialect,
        Self::CannotProcessFilter,
        Self::InvalidEnumerationContext,
        Self::InvalidExpiration,
        Self::UnableToRenew,
        Self::DeliveryMode,
        Self::SubscriptionFilter,
        Self::InvalidSubscriptionExpiration,
        Self::InvalidSubscription,
    ];

    /// The table. One line for each kind, so that it can be read against the specifications.
    #[rustfmt::skip]
    const fn shape(self) -> Shape {
        const fn of(code: &'static str, subcode: &'static str, detail: Option<&'static str>, number: u32, status: Status) -> Shape {
            Shape { code, subcode: Some(subcode), detail, number, status }
        }
        use Status::{AccessDenied, AlreadyExists, Failed, InvalidClass, InvalidEnumerationContext, InvalidParameter, InvalidQuery, MethodNotFound, NotFound, NotSupported, QueryLanguageNotSupported, ServerIsShuttingDown, ServerLimitsExceeded, TypeMismatch};
        match self {
            Self::Malformed => of(SENDER, "w:SchemaValidationError", None, 67, InvalidParameter),
            Self::VersionMismatch => Shape { code: "s:VersionMismatch", subcode: None, detail: None, number: 13, status: NotSupported },
            Self::MustUnderstand => Shape { code: "s:MustUnderstand", subcode: None, detail: None, number: 16, status: NotSupported },
            Self::HeaderRequired => of(SENDER, "a:MessageInformationHeaderRequired", None, 17, InvalidParameter),
            Self::InvalidHeader => of(SENDER, "a:InvalidMessageInformationHeader", None, 15, InvalidParameter),
            Self::InvalidResourceUri => of(SENDER, "a:DestinationUnreachable", Some("InvalidResourceURI"), 0, InvalidClass),
            Self::NotFound => of(SENDER, "a:DestinationUnreachable", Some("ResourceNotFound"), 0, NotFound),
            Self::EndpointUnavailable => of(RECEIVER, "a:EndpointUnavailable", None, 20, ServerIsShuttingDown),
            Self::ActionNotSupported => of(SENDER, "a:ActionNotSupported", None, 19, MethodNotFound),
            Self::ActionMismatch => of(SENDER, "a:ActionNotSupported", Some("ActionMismatch"), 49, MethodNotFound),
            Self::InsufficientSelectors => of(SENDER, "w:InvalidSelectors", Some("InsufficientSelectors"), 90, InvalidParameter),
            Self::UnexpectedSelectors => of(SENDER, "w:InvalidSelectors", Some("UnexpectedSelectors"), 91, InvalidParameter),
            Self::SelectorTypeMismatch => of(SENDER, "w:InvalidSelectors", Some("TypeMismatch"), 92, TypeMismatch),
            Self::DuplicateSelectors => of(SENDER, "w:InvalidSelectors", Some("DuplicateSelectors"), 95, InvalidParameter),
            Self::AccessDenied => of(SENDER, "w:AccessDenied", None, 5, AccessDenied),
            Self::SchemaValidation => of(SENDER, "w:SchemaValidationError", None, 65, InvalidParameter),
            Self::InvalidParameter => of(SENDER, "w:InvalidParameter", None, 58, InvalidParameter),
            Self::InvalidParameterName => of(SENDER, "w:InvalidParameter", Some("InvalidName"), 85, InvalidParameter),
            Self::ParameterTypeMismatch => of(SENDER, "w:InvalidParameter", Some("TypeMismatch"), 84, TypeMismatch),
            Self::AlreadyExists => of(SENDER, "w:AlreadyExists", None, 51, AlreadyExists),
            Self::AddressingMode => of(SENDER, "w:UnsupportedFeature", Some("AddressingMode"), 118, NotSupported),
            Self::EnumerationMode => of(SENDER, "w:UnsupportedFeature", Some("EnumerationMode"), 134, NotSupported),
            Self::UnsupportedFeature => of(SENDER, "w:UnsupportedFeature", None, 66, NotSupported),
            Self::InternalError => of(RECEIVER, "w:InternalError", None, 3, Failed),
            Self::MaxEnvelopeSize => of(SENDER, "w:EncodingLimit", Some("MaxEnvelopeSize"), 71, ServerLimitsExceeded),
            Self::MaxEnvelopeSizeExceeded => of(SENDER, "w:EncodingLimit", Some("MaxEnvelopeSizeExceeded"), 72, ServerLimitsExceeded),
            Self::MinimumEnvelopeLimit => of(SENDER, "w:EncodingLimit", Some("MinimumEnvelopeLimit"), 126, InvalidParameter),
            Self::ServiceEnvelopeLimit => of(SENDER, "w:EncodingLimit", Some("ServiceEnvelopeLimit"), 73, ServerLimitsExceeded),
            Self::TimedOut => of(RECEIVER, "w:TimedOut", None, 41, Failed),
            Self::QuotaLimit => of(SENDER, "w:QuotaLimit", None, 63, ServerLimitsExceeded),
            Self::FilterDialect => of(SENDER, "n:FilterDialectRequestedUnavailable", None, 25, QueryLanguageNotSupported),
            Self::CannotProcessFilter => of(SENDER, "n:CannotProcessFilter", None, 26, InvalidQuery),
            Self::InvalidEnumerationContext => of(SENDER, "n:InvalidEnumerationContext", None, 27, InvalidEnumerationContext),
            Self::InvalidExpiration => of(SENDER, "n:InvalidExpirationTime", None, 22, InvalidParameter),
            Self::UnableToRenew => of(SENDER, "e:UnableToRenew", None, 36, NotSupported),
            Self::DeliveryMode => of(SENDER, "e:DeliveryModeRequestedUnavailable", None, 30, NotSupported),
            Self::SubscriptionFilter => of(SENDER, "e:FilteringRequestedUnavailable", None, 34, QueryLanguageNotSupported),
            Self::InvalidSubscriptionExpiration => of(SENDER, "e:InvalidExpirationTime", None, 31, InvalidParameter),
            Self::InvalidSubscription => of(SENDER, "e:InvalidMessage", None, 37, InvalidParameter),
        }
    }

    /// Status line of the HTTP answer: 400 for what is not even an envelope, else 500.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            _ => 500,
        }
    }

    /// Subcode with the prefix that answers use; `None` for faults of SOAP itself.
    #[must_use]
    pub const fn subcode(self) -> Option<&'static str> {
        self.shape().subcode
    }

    /// The action of an envelope with such a fault.
    #[must_use]
    pub fn action(self) -> String {
        let base = match self.shape().subcode.map(|s| s.split_at(2).0) {
            Some("a:") | None => ns::ADDRESSING,
            Some("n:") => ns::ENUMERATION,
            Some("e:") => ns::EVENTING,
            Some(_) => ns::WSMAN_ACTION,
        };
        format!("{base}/fault")
    }
}

/// Longest message, characters.
const MAX_MESSAGE: usize = 600;

/// What this server can filter with.
pub(super) const DIALECTS: [&str; 3] = [
    "http://schemas.microsoft.com/wbem/wsman/1/WQL",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter",
    "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter",
];

/// URIs of the delivery modes, in the order of [`DeliveryMode::ALL`](super::DeliveryMode::ALL).
pub(super) const MODES: [&str; 4] = [
    "http://schemas.xmlsoap.org/ws/2004/08/eventing/DeliveryModes/Push",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/PushWithAck",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/Events",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull",
];

impl Fault {
    /// A fault. Names that a client made up may be in the message, so it is cut to a readable length.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self {
            kind,
            message: message.chars().take(MAX_MESSAGE).collect(),
            status: None,
            relates_to: None,
        }
    }

    /// The same as an answer to this message.
    #[must_use]
    pub fn to(mut self, message_id: Option<&str>) -> Self {
        self.relates_to = message_id.map(str::to_owned);
        self
    }

    /// The whole envelope. `message_id` is its own id (`uuid:...`), `machine` the name of this host.
    #[must_use]
    pub fn envelope(&self, message_id: &str, machine: &str) -> String {
        let shape = self.kind.shape();
        let mut w = Writer::new();
        w.start("s:Fault", &[]);
        w.start("s:Code", &[]);
        w.leaf("s:Value", &[], shape.code);
        if let Some(subcode) = shape.subcode {
            w.start("s:Subcode", &[]);
            w.leaf("s:Value", &[], subcode);
            w.end("s:Subcode");
        }
        w.end("s:Code");
        w.start("s:Reason", &[]);
        w.leaf("s:Text", &[("xml:lang", "en-US")], &self.message);
        w.end("s:Reason");
        w.start("s:Detail", &[]);
        self.detail(&mut w, &shape, machine);
        w.end("s:Detail");
        w.end("s:Fault");
        envelope(
            &self.kind.action(),
            message_id,
            self.relates_to.as_deref(),
            &w.finish(),
        )
    }

    fn detail(&self, w: &mut Writer, shape: &Shape, machine: &str) {
        if let Some(detail) = shape.detail {
            w.leaf(
                "w:FaultDetail",
                &[],
                &format!("{}/faultDetail/{detail}", ns::WSMAN_ACTION),
            );
        }
        let supported: (&str, &[&str]) = match self.kind {
            FaultKind::FilterDialect => ("n:SupportedDialect", &DIALECTS),
            FaultKind::SubscriptionFilter => ("e:SupportedDialect", &DIALECTS[..1]),
            FaultKind::DeliveryMode => ("e:SupportedDeliveryMode", &MODES),
            _ => ("", &[]),
        };
        for uri in supported.1 {
            w.leaf(supported.0, &[], uri);
        }
        let status = self.status.unwrap_or(shape.status);
        let number = match (self.status.and_then(wmi_number), self.kind) {
            (Some(number), _) => number,
            // Windows' own number for a denied access.
            (None, FaultKind::AccessDenied) => 5,
            (None, _) => NUMBERS + shape.number,
        };
        let attributes = [
            ("xmlns:f", ns::WSMAN_FAULT),
            ("Code", &number.to_string()),
            ("Machine", machine),
        ];
        w.start("f:WSManFault", &attributes);
        w.leaf("f:Message", &[], &self.message);
        w.end("f:WSManFault");
        // Microsoft's open client takes its result from here, and only from here.
        w.start(
            "p:OMI_Error",
            &[
                (
                    "xmlns:p",
                    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/OMI_Error",
                ),
                ("b:IsCIM_Error", "true"),
            ],
        );
        let status = status.number().to_string();
        w.leaf("p:CIMStatusCode", &[], &status);
        w.leaf("p:Message", &[], &self.message);
        w.leaf("p:MessageID", &[], &format!("OMI:MI_Result:{status}"));
        w.leaf("p:OMI_Code", &[], &status);
        w.leaf("p:OMI_Type", &[], "MI");
        w.end("p:OMI_Error");
    }
}

/// The number that WMI gives an error of an operation.
const fn wmi_number(status: Status) -> Option<u32> {
    match status {
        Status::Failed => Some(0x8004_1001),
        Status::NotFound => Some(0x8004_1002),
        Status::AccessDenied => Some(0x8004_1003),
        Status::TypeMismatch => Some(0x8004_1005),
        Status::InvalidParameter => Some(0x8004_1008),
        Status::NotSupported => Some(0x8004_100c),
        Status::InvalidNamespace => Some(0x8004_100e),
        Status::InvalidClass => Some(0x8004_1010),
        Status::InvalidQuery => Some(0x8004_1017),
        Status::QueryLanguageNotSupported => Some(0x8004_1018),
        Status::AlreadyExists => Some(0x8004_1019),
        Status::MethodNotFound => Some(0x8004_102e),
        Status::ServerIsShuttingDown => Some(0x8004_1033),
        Status::NoSuchProperty
        | Status::MethodNotAvailable
        | Status::InvalidEnumerationContext
        | Status::InvalidOperationTimeout
        | Status::FilteredEnumerationNotSupported
        | Status::ServerLimitsExceeded => None,
    }
}

impl From<CimError> for Fault {
    fn from(error: CimError) -> Self {
        let kind = match error.status {
            Status::Failed => FaultKind::InternalError,
            Status::AccessDenied => FaultKind::AccessDenied,
            Status::InvalidNamespace | Status::InvalidClass => FaultKind::InvalidResourceUri,
            Status::InvalidParameter | Status::InvalidOperationTimeout => FaultKind::InvalidParameter,
            Status::NotFound => FaultKind::NotFound,
            Status::NotSupported | Status::MethodNotAvailable | Status::MethodNotFound => {
                FaultKind::ActionNotSupported
            }
            Status::AlreadyExists => FaultKind::AlreadyExists,
            Status::NoSuchProperty => FaultKind::InvalidParameterName,
            Status::TypeMismatch => FaultKind::ParameterTypeMismatch,
            Status::QueryLanguageNotSupported => FaultKind::FilterDialect,
            Status::InvalidQuery | Status::FilteredEnumerationNotSupported => FaultKind::CannotProcessFilter,
            Status::InvalidEnumerationContext => FaultKind::InvalidEnumerationContext,
            Status::ServerLimitsExceeded => FaultKind::QuotaLimit,
            Status::ServerIsShuttingDown => FaultKind::EndpointUnavailable,
        };
        Self {
            kind,
            status: Some(error.status),
            message: error.message,
            relates_to: None,
        }
    }
}
