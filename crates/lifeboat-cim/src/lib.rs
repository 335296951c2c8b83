//! The Common Information Model as Lifeboat speaks it: a class repository built from the project's own MOF, values and
//! instances, the codecs of CIM-XML and WS-Management, and WQL. Pure: it turns bytes into requests and answers into bytes.
//! What a class means, what a method does, sockets and sessions belong to other crates.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]

pub mod cimxml;
pub mod datetime;
pub mod error;
pub mod mof;
pub mod path;
pub mod raw;
pub mod schema;
pub mod typing;
pub mod value;
pub mod wql;
pub mod wsman;

pub use datetime::DateTime;
pub use error::{CimError, Status};
pub use path::{InstanceName, KeyValue, ObjectPath};
pub use raw::{Raw, RawInstance};
pub use schema::{Class, Method, Namespace, Parameter, Property, Qualifier, Schema};
pub use value::{CimType, Instance, Value};
