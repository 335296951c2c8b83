//! Errors of CIM operations with the numbers of DSP0200. Both protocols make their own shape of them; a method that was
//! carried out and refused is not an error but a return value.

/// Status codes of CIM operations (DSP0200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// Anything else.
    Failed = 1,
    /// Not allowed for this user.
    AccessDenied = 2,
    /// No such namespace.
    InvalidNamespace = 3,
    /// A parameter is missing, doubled, unknown or cannot be understood.
    InvalidParameter = 4,
    /// No such class.
    InvalidClass = 5,
    /// No such instance.
    NotFound = 6,
    /// Not offered by this server.
    NotSupported = 7,
    /// It exists already.
    AlreadyExists = 11,
    /// No such property.
    NoSuchProperty = 12,
    /// A value of another type.
    TypeMismatch = 13,
    /// A query language that is not supported here.
    QueryLanguageNotSupported = 14,
    /// A query that cannot be understood.
    InvalidQuery = 15,
    /// The method exists, but not for this instance.
    MethodNotAvailable = 16,
    /// No such method.
    MethodNotFound = 17,
    /// The enumeration context is unknown, was closed or has expired.
    InvalidEnumerationContext = 21,
    /// An operation timeout out of range.
    InvalidOperationTimeout = 22,
    /// Filters on pulled enumerations.
    FilteredEnumerationNotSupported = 25,
    /// More than this server holds at once.
    ServerLimitsExceeded = 27,
    /// It is stopping.
    ServerIsShuttingDown = 28,
}

impl Status {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// Why an operation was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CimError {
    /// Whose fault and which.
    pub status: Status,
    /// What and why, naming the thing; at most a few hundred characters.
    pub message: String,
}

impl CimError {
    /// An error.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}
