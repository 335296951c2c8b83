//! The object manager: CIM operations over the engine's state, the same for both protocols. Instances are made of views at
//! the moment they are asked for, methods become actions; nothing is kept here but subscriptions. Namespaces, classes and
//! types are those of the schema, which comes from the MOF.
//!
//! What a class's instances are is in `classes`; what a method does in `methods`. XML and sockets are not known here.

pub mod caller;
pub(crate) mod classes;
mod cursor;
mod embedded;
mod facts;
mod hint;
pub mod indications;
mod located;
pub mod methods;
mod query;
mod recovery;
mod registry;
mod relations;
pub(crate) mod roles;
mod subscription;
pub mod subscriptions;
mod times;
mod waiting;
mod watched;

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lifeboat_cim::{CimError, Instance, InstanceName, Namespace, Schema, Value};
use lifeboat_engine::action::Management;
use lifeboat_engine::ports::Clock;
use lifeboat_model::Timestamp;

pub use caller::Caller;
pub use cursor::Cursor;
pub use facts::Machine;
pub use lifeboat_engine::action::Role;
pub use located::Found;

/// The namespace of everything about virtual machines.
pub const VIRTUALIZATION: &str = "root/virtualization/v2";
/// The namespace in which clients look for namespaces and profiles.
pub const INTEROP: &str = "root/interop";
/// The namespace of the operating system, of which some clients read a little before they begin.
pub const CIMV2: &str = "root/cimv2";

/// Where the certificates come from that `GetSystemCertificates` shows.
#[derive(Clone, Debug)]
pub enum Certificates {
    /// These certificates, each in DER.
    Fixed(Vec<Vec<u8>>),
    /// A PEM file, read at each call: it is replaced while the daemon runs.
    File(camino::Utf8PathBuf),
}

/// What the object manager has to be told of this host, because the engine does not know it.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Host name, by which instances name this host.
    pub name: String,
    /// Version of Lifeboat.
    pub version: String,
    /// Certificates that this host shows its peers, DER (`GetSystemCertificates`).
    pub certificates: Certificates,
    /// Port on which peers are taken (`HttpsPort`).
    pub peer_port: u16,
    /// How long a job can be read after its end (`TimeBeforeRemoval`).
    pub job_retention: Duration,
    /// The machine itself.
    pub machine: Machine,
    /// Directories at or below which callers may have initial copies exported and imported, absolute. None: nowhere.
    pub media_directories: Vec<camino::Utf8PathBuf>,
}

/// Which instances are related to a source instance (DSP0200: Associators and References).
#[derive(Clone, Debug)]
pub struct Relations {
    /// The instance whose relations are asked for.
    pub source: InstanceName,
    /// Follow only this association class and classes derived from it; `None`: all.
    pub association: Option<String>,
    /// Return only ends (or, for references, associations) of this class or classes derived from it; `None`: all.
    pub result: Option<String>,
    /// The property by which the association must name the source; `None`: any.
    pub role: Option<String>,
    /// The property by which the association must name the other end; `None`: any.
    pub result_role: Option<String>,
}

/// The answer of a method that was called.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The return value: 0 is success, 4096 a job that was started, anything else a refusal.
    pub value: u32,
    /// Output parameters that have a value, by their declared names.
    pub out: Vec<(String, Value)>,
}

/// The object manager of a host.
pub struct ObjectManager {
    schema: &'static Schema,
    management: Arc<dyn Management>,
    host: HostFacts,
    clock: Arc<dyn Clock>,
    /// Answers of the engine that overlapping walks share; dropped with the last of these walks.
    shared: Mutex<Weak<facts::Shared>>,
    /// Filters, listener destinations and subscriptions that clients have made.
    registry: registry::Registry,
}

impl ObjectManager {
    /// The object manager of the host that `management` speaks for, by that host's clock.
    pub fn new(management: Arc<dyn Management>, host: HostFacts, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            schema: Schema::builtin(),
            management,
            host,
            clock,
            shared: Mutex::new(Weak::new()),
            registry: registry::Registry::default(),
        })
    }

    /// The classes that this host serves, by namespace.
    #[must_use]
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// What was given of this host.
    #[must_use]
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// The time of this host's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Minutes by which the time of day on this host is ahead of UTC now, 0 to 1,439.
    pub(crate) fn ahead_of_utc(&self) -> u16 {
        let minute = || self.clock.now().0 / 60_000;
        let (mut utc, mut local) = (minute(), self.clock.local_minute());
        // A minute that ends between the two looks would be taken for a part of the difference.
        if minute() != utc {
            (utc, local) = (minute(), self.clock.local_minute());
        }
        let utc = u16::try_from(utc % 1440).unwrap_or(0);
        (local + 1440 - utc) % 1440
    }

    /// One instance. Fewer keys than the class has will do when they name one instance, none at all for a class with
    /// one instance; an instance of a derived class is found by the name of a base class.
    ///
    /// # Errors
    /// No such namespace, class or instance; keys that are not those of the class; keys that several instances have.
    pub async fn get(&self, namespace: &str, name: &InstanceName) -> Result<Instance, CimError> {
        let namespace = self.schema.namespace(namespace)?;
        Ok(self.locate(namespace, name).await?.instance)
    }

    /// All instances of a class and of those derived from it.
    ///
    /// # Errors
    /// No such namespace or class.
    pub async fn enumerate(self: &Arc<Self>, namespace: &str, class: &str) -> Result<Cursor, CimError> {
        let namespace = self.schema.namespace(namespace)?;
        Cursor::all(self, namespace, class, None)
    }

    /// What a query selects. Columns are not cut out: a protocol says which properties it shows.
    ///
    /// # Errors
    /// As `enumerate` and, for a query of relations, as `associators`; a path that is none.
    pub async fn query(
        self: &Arc<Self>,
        namespace: &str,
        query: &lifeboat_cim::wql::Query,
    ) -> Result<Cursor, CimError> {
        let namespace = self.schema.namespace(namespace)?;
        self.run(namespace, query).await
    }

    /// The instances that are related to one.
    ///
    /// # Errors
    /// No such namespace; no such source; a filter that names no class.
    pub async fn associators(
        self: &Arc<Self>,
        namespace: &str,
        relations: Relations,
    ) -> Result<Cursor, CimError> {
        let namespace = self.schema.namespace(namespace)?;
        Cursor::related(self, namespace, relations, relations::Want::Ends).await
    }

    /// The associations that relate one instance to others.
    ///
    /// # Errors
    /// As `associators`.
    pub async fn references(
        self: &Arc<Self>,
        namespace: &str,
        relations: Relations,
    ) -> Result<Cursor, CimError> {
        let namespace = self.schema.namespace(namespace)?;
        Cursor::related(self, namespace, relations, relations::Want::Links).await
    }

    /// The name of an instance of ours.
    #[must_use]
    pub fn name_of(&self, namespace: &Namespace, instance: &Instance) -> InstanceName {
        namespace.name_of(instance)
    }
}
