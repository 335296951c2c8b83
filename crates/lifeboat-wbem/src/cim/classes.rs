//! Which classes there are instances of, and what each is made of: one table, associations included. How an instance is
//! made is in the modules below, one for each kind of thing; what is asked of the engine for it is in [`super::facts`].
//! Classes that are only ever embedded in something else are made by functions there and are not in the table.

pub(crate) mod indications;
mod jobs;
pub(crate) mod names;
pub(crate) mod network;
mod platform;
pub(crate) mod points;
mod replication;
mod resources;
mod service;
pub(crate) mod settings;
pub(crate) mod summary;
mod system;

use lifeboat_cim::{Instance, ObjectPath};

use super::HostFacts;
use super::facts::{HostParts, JobParts, Needs, Parts, ServerParts, VmParts};
use super::times::{duration, instant, span};

pub(crate) use names::{job_path, vm_path};

/// How a class's instances are made, and of what.
#[derive(Clone, Copy)]
pub(crate) enum Make {
    /// Of what is known of the host without asking the engine.
    Host(fn(&HostFacts, &HostParts) -> Vec<Instance>),
    /// Of what the engine answers about the host.
    Server(fn(&HostFacts, &ServerParts) -> Vec<Instance>),
    /// Of a VM.
    Vm(fn(&HostFacts, &VmParts) -> Vec<Instance>),
    /// Of a VM and its recovery points.
    Points(fn(&HostFacts, &VmParts) -> Vec<Instance>),
    /// Of a job.
    Job(fn(&HostFacts, &JobParts) -> Vec<Instance>),
    /// Of a job, and whether its VM exists.
    JobOfVm(fn(&HostFacts, &JobParts) -> Vec<Instance>),
}

impl Make {
    /// Adds what has to be visited for it.
    pub(crate) fn add_needs(&self, needs: &mut Needs) {
        match self {
            Self::Host(_) => needs.host = true,
            Self::Server(_) => (needs.host, needs.server) = (true, true),
            Self::Vm(_) => needs.vm = true,
            Self::Points(_) => needs.points = true,
            Self::Job(_) => needs.job = true,
            Self::JobOfVm(_) => needs.job_vm = true,
        }
    }
}

/// A class that has instances. One class may have several entries, made of different things.
pub(crate) struct ClassView {
    /// Its namespace.
    pub(crate) namespace: &'static str,
    /// Its name.
    pub(crate) class: &'static str,
    /// Its instances.
    pub(crate) make: Make,
}

/// All classes that have instances.
const CLASSES: &[&[ClassView]] = &[
    system::CLASSES,
    service::CLASSES,
    replication::CLASSES,
    settings::CLASSES,
    resources::CLASSES,
    network::CLASSES,
    points::CLASSES,
    jobs::CLASSES,
    platform::CLASSES,
    indications::CLASSES,
];

/// Every entry of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static ClassView> {
    CLASSES.iter().copied().flatten()
}

/// The instances of these classes that are made of this.
pub(crate) fn make(classes: &[&'static ClassView], host: &HostFacts, parts: &Parts) -> Vec<Instance> {
    let instances = |class: &&'static ClassView| match (class.make, parts) {
        (Make::Host(make), Parts::Host(of)) => make(host, of),
        (Make::Server(make), Parts::Host(of)) => {
            let server = of.server.as_ref();
            server.map_or_else(Vec::new, |of| make(host, of))
        }
        (Make::Vm(make) | Make::Points(make), Parts::Vm(of)) => make(host, of),
        (Make::Job(make) | Make::JobOfVm(make), Parts::Job(of)) => make(host, of),
        (
            Make::Host(_) | Make::Server(_) | Make::Vm(_) | Make::Points(_) | Make::Job(_) | Make::JobOfVm(_),
            Parts::Host(_) | Parts::Vm(_) | Parts::Job(_),
        ) => Vec::new(),
    };
    classes.iter().flat_map(instances).collect()
}

/// An entry of the namespace of virtual machines.
const fn view(class: &'static str, make: Make) -> ClassView {
    ClassView {
        namespace: super::VIRTUALIZATION,
        class,
        make,
    }
}

/// An association between two instances.
fn link(class: &str, one: (&str, ObjectPath), other: (&str, ObjectPath)) -> Instance {
    Instance::new(class).with(one.0, one.1).with(other.0, other.1)
}

/// An instance with the texts that every managed element has.
fn element(class: &str, caption: &str, description: &str, name: &str) -> Instance {
    Instance::new(class)
        .with("Caption", caption)
        .with("Description", description)
        .with("ElementName", name)
}

/// The instance with a status that says it is well.
fn well(instance: Instance) -> Instance {
    instance
        .with("OperationalStatus", vec![2_u16])
        .with("StatusDescriptions", vec!["OK"])
        .with("Status", "OK")
        .with("HealthState", 5_u16)
}

/// What every part of a machine has: some of a resource, in some unit.
fn part(
    class: &str,
    id: &str,
    names: (&str, &str, &str),
    kind: (u16, &str),
    unit: &str,
    amount: u64,
) -> Instance {
    element(class, names.0, names.1, names.2)
        .with("InstanceID", id)
        .with("ResourceType", kind.0)
        .with("ResourceSubType", kind.1)
        .with("PoolID", "")
        .with("ConsumerVisibility", 3_u16)
        .with("AllocationUnits", unit)
        .with("VirtualQuantityUnits", unit)
        .with("VirtualQuantity", amount)
        .with("Reservation", amount)
        .with("Limit", amount)
        .with("Weight", 0_u32)
        .with("AutomaticAllocation", true)
        .with("AutomaticDeallocation", true)
}
