//! Finding an instance by its name: which classes it may be of, and which VMs and jobs the ids in its keys lead to. The walk
//! over all instances of a class is in `cursor`.

use std::sync::Arc;

use lifeboat_cim::typing::typed_name;
use lifeboat_cim::{CimError, Instance, InstanceName, KeyValue, Namespace, Status};
use lifeboat_engine::action::VmView;
use lifeboat_model::{JobId, VmId};

use super::classes::{self, ClassView, vm_path};
use super::facts::{Leg, Needs, Parts, Walk};
use super::{ObjectManager, VIRTUALIZATION};

/// An instance with the namespace that declares its class. Associations lead from one namespace into another.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where its class is declared: keys and types are those of this declaration.
    pub namespace: &'static Namespace,
    /// The instance.
    pub instance: Instance,
}

/// What an instance that was found belongs to.
pub(super) enum Home {
    /// It is the host's.
    Host,
    /// It belongs to this VM.
    Vm(VmId),
    /// It belongs to this job, which is about that VM.
    Job(JobId, VmId),
}

/// An instance that was looked for.
pub(super) struct Located {
    pub(super) instance: Instance,
    /// All its keys, and its own class.
    pub(super) name: InstanceName,
    pub(super) home: Home,
    /// The VM it was made of.
    pub(super) view: Option<Arc<VmView>>,
}

/// Most ids in one name or query that are looked up; further ones are ignored.
pub(super) const MOST_IDS: usize = 8;

/// The table's entries of a class and those derived from it.
pub(super) fn entries(
    namespace: &'static Namespace,
    class: &str,
) -> Result<Vec<&'static ClassView>, CimError> {
    namespace.class(class)?;
    let wanted =
        |c: &&ClassView| c.namespace.eq_ignore_ascii_case(&namespace.name) && namespace.is_a(c.class, class);
    Ok(classes::all().filter(wanted).collect())
}

/// What has to be visited for these classes.
pub(super) fn needs(classes: &[&'static ClassView]) -> Needs {
    let mut needs = Needs::default();
    classes.iter().for_each(|c| c.make.add_needs(&mut needs));
    needs
}

/// The walk to every instance that may carry one of these ids in its keys. `complete`: all keys are known, so that an instance
/// of a VM or a job must carry one of the ids.
pub(super) fn legs(needs: Needs, ids: Vec<VmId>, complete: bool) -> Vec<Leg> {
    let mut legs = Vec::new();
    let vms = needs.vm || needs.points;
    let jobs = needs.job || needs.job_vm;
    if needs.host {
        legs.push(Leg::Host);
    }
    if ids.is_empty() && !complete {
        legs.extend(vms.then_some(Leg::Vms));
        legs.extend(jobs.then_some(Leg::Jobs(None)));
        return legs;
    }
    for id in &ids {
        legs.extend(vms.then_some(Leg::Vm(*id)));
        legs.extend(jobs.then_some(Leg::Job(JobId(id.0))));
    }
    // The name of a recovery point does not say which VM it is of.
    if needs.points && !ids.is_empty() {
        legs.push(Leg::PointsUnlessFound);
    }
    legs
}

/// The UUIDs in a key: a VM's `Name`, `Microsoft:UUID\more`, a job's `InstanceID`.
pub(super) fn ids_in(text: &str) -> Vec<VmId> {
    let words = text.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    let ids = words.filter(|w| w.len() == 36).filter_map(|w| w.parse().ok());
    ids.take(MOST_IDS).collect()
}

fn ids_of(name: &InstanceName, depth: usize, ids: &mut Vec<VmId>) {
    for (_, key) in &name.keys {
        match key {
            KeyValue::Text(text) => ids.extend(ids_in(text)),
            KeyValue::Reference(path) if depth > 0 => ids_of(&path.name, depth - 1, ids),
            KeyValue::Reference(_) => {}
        }
    }
}

fn shortened(name: &InstanceName) -> String {
    let key = |(n, v): &(String, KeyValue)| match v {
        KeyValue::Text(text) => format!("{n}=\"{text}\""),
        KeyValue::Reference(path) => format!("{n}={}", path.name.class),
    };
    let keys: Vec<_> = name.keys.iter().map(key).collect();
    let dot = if keys.is_empty() { "" } else { "." };
    format!("{}{dot}{}", name.class, keys.join(","))
        .chars()
        .take(200)
        .collect()
}

impl ObjectManager {
    /// Finds an instance by its name, or by a part of it that no other instance shares.
    pub(super) async fn locate(
        &self,
        namespace: &'static Namespace,
        name: &InstanceName,
    ) -> Result<Located, CimError> {
        let classes = entries(namespace, &name.class)?;
        let name = &typed_name(namespace, name.clone())?;
        let whole = check_keys(namespace, name)?;
        let mut ids = Vec::new();
        ids_of(name, 2, &mut ids);
        ids.truncate(MOST_IDS);
        let needs = needs(&classes);
        let mut walk = Walk::new(self, needs, legs(needs, ids, whole));
        walk.unlisted = true;
        let mut located: Option<Located> = None;
        while let Some(parts) = walk.next(self).await? {
            for instance in classes::make(&classes, &self.host, &parts) {
                let own = namespace.name_of(&instance);
                if !fits(name, &own) {
                    continue;
                }
                if located.is_some() {
                    let text = format!("{} names more than one instance: give more keys", shortened(name));
                    return Err(CimError::new(Status::InvalidParameter, text));
                }
                let (home, view) = match &parts {
                    Parts::Host(_) => (Home::Host, None),
                    Parts::Vm(vm) => (Home::Vm(vm.view.spec.uuid), Some(vm.view.clone())),
                    Parts::Job(job) => (Home::Job(job.job.id, job.job.vm), None),
                };
                walk.found = true;
                located = Some(Located {
                    instance,
                    name: own,
                    home,
                    view,
                });
            }
            if whole && located.is_some() {
                break;
            }
        }
        located.ok_or_else(|| {
            let text = format!("there is no {} on this host", shortened(name));
            CimError::new(Status::NotFound, text)
        })
    }
}

/// The VM that a name means by all keys of its class, whether it is here or not; `None` for every other name.
pub(super) fn vm_named(namespace: &'static Namespace, name: &InstanceName) -> Option<VmId> {
    if !namespace.name.eq_ignore_ascii_case(VIRTUALIZATION) {
        return None;
    }
    let name = typed_name(namespace, name.clone()).ok()?;
    let vm = name.text("Name")?.parse().ok()?;
    (vm_path(vm).name == name).then_some(vm)
}

/// Whether a name that may lack keys means an instance.
fn fits(wanted: &InstanceName, own: &InstanceName) -> bool {
    let has = |(n, v): &(String, KeyValue)| own.key(n).is_some_and(|o| o == v);
    wanted.keys.iter().all(has)
}

/// Whether a name has all keys of its class; an error when it has others.
fn check_keys(namespace: &Namespace, name: &InstanceName) -> Result<bool, CimError> {
    let class = namespace.class(&name.class)?;
    let keys: Vec<_> = class.properties.iter().filter(|p| p.key).collect();
    for (key, _) in &name.keys {
        if !keys.iter().any(|k| k.name.eq_ignore_ascii_case(key)) {
            let shown: String = key.chars().take(80).collect();
            let has: Vec<_> = keys.iter().map(|k| k.name.as_str()).collect();
            let text = format!(
                "{} has no key \"{shown}\"; it has: {}",
                class.name,
                has.join(", ")
            );
            return Err(CimError::new(Status::InvalidParameter, text));
        }
    }
    let given = |k: &&&lifeboat_cim::Property| name.key(&k.name).is_some();
    Ok(!keys.is_empty() && keys.iter().filter(given).count() == keys.len())
}
