//! The object manager: CIM operations over the engine's state, the same for both protocols. Instances are made of views at
//! the moment they are asked for, methods become actions; nothing is kept here but subscriptions. Namespaces, classes and
//! types are those of the schema, which comes from the MOF.
//!
//! What a class's instances are is in [`classes`]; what a method does in [`methods`]. XML and sockets are not known here.

pub mod caller;
mod cursor;

use std::sync::Arc;

use lifeboat_cim::{CimError, Instance, InstanceName, Raw, Schema, Value};
use lifeboat_engine::action::Management;

pub use caller::{Caller, Role};
pub use cursor::Cursor;

/// The namespace of everything about virtual machines.
pub const VIRTUALIZATION: &str = "root/virtualization/v2";
/// The namespace in which clients look for namespaces and profiles.
pub const INTEROP: &str = "root/interop";
/// The namespace of the operating system, of which some clients read a little before they begin.
pub const CIMV2: &str = "root/cimv2";

/// What is known of this host beside the engine's state.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// Version of Lifeboat.
    pub version: String,
    /// Certificates that this host shows its peers, DER (`GetSystemCertificates`).
    pub certificates: Vec<Vec<u8>>,
    /// Port on which peers are taken (`HttpsPort`).
    pub peer_port: u16,
}

/// Which instances stand in a relation to one (DSP0200: Associators and References).
#[derive(Clone, Debug)]
pub struct Relations {
    /// From where.
    pub source: InstanceName,
    /// Only through this association class or one derived from it.
    pub association: Option<String>,
    /// Only ends (or, for references, associations) of this class or derived from it.
    pub result: Option<String>,
    /// The property of the association that names the source.
    pub role: Option<String>,
    /// The property that names the other end.
    pub result_role: Option<String>,
}

/// What a method gave back.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The return value.
    pub value: u32,
    /// Output parameters that have a value, by their declared names.
    pub out: Vec<(String, Value)>,
}

/// The object manager of a host.
pub struct ObjectManager {
    schema: Schema,
    management: Arc<dyn Management>,
    host: HostFacts,
}
