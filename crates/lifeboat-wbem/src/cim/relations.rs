//! Associators and references: the associations of an instance and what they lead to. Which associations there are is said
//! in the table of classes, not here.

use lifeboat_cim::{CimError, CimType, Instance, InstanceName, Namespace, ObjectPath, Schema, Status, Value};

use super::classes::settings::ACTIVE;
use super::classes::{self, ClassView, Make};
use super::facts::{Leg, Needs, Parts, Walk};
use super::located::{Found, Home, Located, needs};
use super::{ObjectManager, Relations};

/// `ReplicationMode` of a test VM, which the associations of another VM may name.
const TEST: u64 = 3;

/// What a question about relations returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The instances at the other ends.
    Ends,
    /// The associations themselves.
    Links,
}

/// A question about the relations of one instance.
pub(super) struct Related {
    schema: &'static Schema,
    namespace: &'static Namespace,
    links: Vec<&'static ClassView>,
    source: InstanceName,
    relations: Relations,
    want: Want,
}

impl Related {
    /// The question, and the walk on which its answers are found.
    pub(super) fn new(
        manager: &ObjectManager,
        namespace: &'static Namespace,
        relations: Relations,
        want: Want,
        source: Located,
    ) -> Result<(Self, Walk), CimError> {
        // An association is in the source's namespace; its ends may be in any.
        let declared = |class: &String| namespace.class(class).is_ok();
        let mut all = manager.schema().namespaces.values();
        let somewhere = |class: &String| declared(class) || all.any(|n| n.class(class).is_ok());
        let named = [
            (
                "AssocClass",
                &relations.association,
                relations.association.as_ref().is_none_or(declared),
            ),
            (
                "ResultClass",
                &relations.result,
                relations.result.as_ref().is_none_or(somewhere),
            ),
        ];
        for (parameter, class, known) in named {
            if let Some(class) = class
                && !known
            {
                let shown: String = class.chars().take(80).collect();
                let text = format!("{parameter}: there is no class {shown} in {}", namespace.name);
                return Err(CimError::new(Status::InvalidParameter, text));
            }
        }
        let mut related = Self {
            schema: manager.schema(),
            namespace,
            links: Vec::new(),
            source: source.name,
            relations,
            want,
        };
        let all = classes::all().filter(|c| c.namespace.eq_ignore_ascii_case(&namespace.name));
        related.links = all.filter(|c| related.may_link(c)).collect();
        let needs = needs(&related.links);
        // A recovery point that is not listed belongs to its VM as well.
        let unlisted = related.source.class.eq_ignore_ascii_case(ACTIVE);
        let mut legs = legs(needs, &source.home);
        if let Home::Vm(vm) = source.home
            && source.instance.unsigned("ReplicationMode") == Some(TEST)
        {
            legs.push(Leg::TestOf(vm));
        }
        let mut walk = Walk::new(manager, needs, legs);
        walk.unlisted = unlisted;
        Ok((related, walk))
    }

    /// Whether instances of a class can be among the associations asked for.
    fn may_link(&self, view: &ClassView) -> bool {
        let is_a = |class: &str, ancestor: &str| self.namespace.is_a(class, ancestor);
        let Ok(class) = self.namespace.class(view.class) else {
            return false;
        };
        let wanted = |ancestor: &Option<String>| ancestor.as_ref().is_none_or(|a| is_a(view.class, a));
        if !class.association
            || !wanted(&self.relations.association)
            || (self.want == Want::Links && !wanted(&self.relations.result))
        {
            return false;
        }
        let ends = class.properties.iter().filter(|p| p.kind == CimType::Reference);
        let holds = |p: &lifeboat_cim::Property| {
            p.reference_class
                .as_ref()
                .is_none_or(|c| is_a(&self.source.class, c))
        };
        ends.clone()
            .any(|p| named(&self.relations.role, &p.name) && holds(p))
    }

    /// The associations, or their ends, that are made of what the walk has reached.
    pub(super) async fn batch(
        &self,
        manager: &ObjectManager,
        walk: &Walk,
        parts: &mut Parts,
    ) -> Result<Vec<Found>, CimError> {
        let mut links = Vec::new();
        let mut ends: Vec<ObjectPath> = Vec::new();
        for link in classes::make(&self.links, &manager.host, parts) {
            let others = self.others(&link);
            if others.is_empty() {
                continue;
            }
            let namespace = self.namespace;
            links.push(Found {
                namespace,
                instance: link,
            });
            for end in others {
                if !ends.contains(&end) {
                    ends.push(end);
                }
            }
        }
        if self.want == Want::Links {
            return Ok(links);
        }
        self.resolve(manager, walk, parts, ends).await
    }

    /// The other ends of an association, if one end is the source.
    fn others(&self, link: &Instance) -> Vec<ObjectPath> {
        let reference = |(name, value): &(String, Value)| {
            let Value::Reference(path) = value else {
                return None;
            };
            Some((name.clone(), (**path).clone()))
        };
        let ends: Vec<_> = link.properties.iter().filter_map(reference).collect();
        let here = |(name, path): &(String, ObjectPath)| {
            named(&self.relations.role, name) && path.name == self.source && self.is_here(path)
        };
        let Some(own) = ends.iter().position(here) else {
            return Vec::new();
        };
        let wanted = |(n, (name, path)): &(usize, (String, ObjectPath))| {
            let class = match (self.want, &self.relations.result) {
                (Want::Ends, Some(class)) => self
                    .namespace_of(path)
                    .is_some_and(|n| n.is_a(&path.name.class, class)),
                (Want::Ends | Want::Links, _) => true,
            };
            *n != own && class && named(&self.relations.result_role, name)
        };
        let others = ends.into_iter().enumerate().filter(wanted);
        others.map(|(_, (_, path))| path).collect()
    }

    /// Where the class of an end is declared; `None` for a namespace that this host does not have.
    fn namespace_of(&self, end: &ObjectPath) -> Option<&'static Namespace> {
        match &end.namespace {
            Some(name) => self.schema.namespace(name).ok(),
            None => Some(self.namespace),
        }
    }

    fn is_here(&self, path: &ObjectPath) -> bool {
        let namespace = path.namespace.as_ref();
        namespace.is_none_or(|n| n.eq_ignore_ascii_case(&self.namespace.name))
    }

    /// The instances at the ends. Most are made of what the walk has reached, once for each class; the others are looked up.
    async fn resolve(
        &self,
        manager: &ObjectManager,
        walk: &Walk,
        parts: &mut Parts,
        ends: Vec<ObjectPath>,
    ) -> Result<Vec<Found>, CimError> {
        let mut classes: Vec<(&'static Namespace, String)> = Vec::new();
        let mut named: Vec<(&'static Namespace, InstanceName)> = Vec::new();
        for end in ends {
            // Never happens: the associations of this host name its own namespaces.
            let Some(namespace) = self.namespace_of(&end) else {
                continue;
            };
            if !classes
                .iter()
                .any(|(n, c)| n.name == namespace.name && *c == end.name.class)
            {
                classes.push((namespace, end.name.class.clone()));
            }
            named.push((namespace, end.name));
        }
        let mut ends = named;
        let mut found = Vec::new();
        for (namespace, class) in &classes {
            let own = classes::all().filter(|c| {
                c.class.eq_ignore_ascii_case(class) && c.namespace.eq_ignore_ascii_case(&namespace.name)
            });
            let (points, plain): (Vec<_>, Vec<_>) = own.partition(|c| matches!(c.make, Make::Points(_)));
            let mut take = |classes: &[&'static ClassView], ends: &mut Vec<_>, parts: &Parts| {
                for instance in classes::make(classes, &manager.host, parts) {
                    let name = namespace.name_of(&instance);
                    let is_it = |(n, e): &(&Namespace, InstanceName)| n.name == namespace.name && *e == name;
                    if let Some(at) = ends.iter().position(is_it) {
                        ends.remove(at);
                        found.push(Found { namespace, instance });
                    }
                }
            };
            take(&plain, &mut ends, parts);
            let left = ends.iter().any(|(_, e)| e.class == *class);
            if let (Parts::Vm(vm), true) = (&mut *parts, left && !points.is_empty()) {
                walk.add_points(manager, vm).await?;
                take(&points, &mut ends, parts);
            }
        }
        for (namespace, name) in ends {
            match manager.locate(namespace, &name).await {
                Ok(located) => found.push(Found {
                    namespace,
                    instance: located.instance,
                }),
                Err(e) if e.status == Status::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }
}

fn named(wanted: &Option<String>, name: &str) -> bool {
    wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(name))
}

/// The walk to all associations that can name an instance that belongs there.
fn legs(needs: Needs, home: &Home) -> Vec<Leg> {
    let mut legs = Vec::new();
    let vms = needs.vm || needs.points;
    let jobs = needs.job || needs.job_vm;
    legs.extend(needs.host.then_some(Leg::Host));
    match home {
        Home::Host => {
            legs.extend(vms.then_some(Leg::Vms));
            legs.extend(jobs.then_some(Leg::Jobs(None)));
        }
        Home::Vm(vm) => {
            legs.extend(vms.then_some(Leg::Vm(*vm)));
            legs.extend(jobs.then_some(Leg::Jobs(Some(*vm))));
        }
        Home::Job(job, vm) => {
            legs.extend(vms.then_some(Leg::Vm(*vm)));
            legs.extend(jobs.then_some(Leg::Job(*job)));
        }
    }
    legs
}
