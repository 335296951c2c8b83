//! The instances by which CIM-XML clients subscribe: filters (what), listener destinations (who), and subscriptions that
//! bring the two together (DSP1054). They are the only instances that clients make and remove themselves, and they are held
//! in memory only: a client that wants indications after a restart of the daemon subscribes again. Nothing is sent to a
//! listener here.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_cim::typing::{typed_instance, typed_name};
use lifeboat_cim::wql::{self, Columns, Query};
use lifeboat_cim::{CimError, DateTime, Instance, InstanceName, Namespace, ObjectPath, RawInstance, Status};
use lifeboat_cim::{KeyValue, Value};

use super::classes::names::SYSTEM;
use super::indications::Indications;
use super::registry::{DESTINATION, Entry, FILTER, SUBSCRIPTION};
use super::subscription::Subscription;
use super::{Caller, INTEROP, VIRTUALIZATION, roles};

pub use super::registry::{FAILURE_TIME, IN_ALL, PER_USER};

/// Longest `Name` of a filter or destination, in characters.
const MAX_NAME: usize = 256;

/// A subscription that has begun.
#[derive(Clone)]
pub struct Begun {
    /// Holds the indications that wait for the listener.
    pub subscription: Arc<Subscription>,
    /// URL of the listener.
    pub destination: String,
    /// `Name` of the filter.
    pub filter: String,
}

fn invalid(message: impl Into<String>) -> CimError {
    CimError::new(Status::InvalidParameter, message)
}

/// The declared name of a class whose instances clients make and remove; `None` for every other class.
fn makes(namespace: &str, class: &str) -> Option<&'static str> {
    let interop = namespace.trim_matches('/').eq_ignore_ascii_case(INTEROP);
    let known = [FILTER, DESTINATION, SUBSCRIPTION];
    let found = known.into_iter().find(|k| k.eq_ignore_ascii_case(class));
    found.filter(|_| interop)
}

/// A monitor may only read, and a listener makes this host connect to another.
fn may(caller: &Caller) -> Result<(), CimError> {
    if caller.role >= roles::LISTENERS {
        Ok(())
    } else {
        let message = "subscriptions of listeners are made and removed by operators and administrators";
        Err(CimError::new(Status::AccessDenied, message))
    }
}

impl Indications {
    /// Makes an instance. `reachable` says why indications cannot be sent to a URL.
    ///
    /// # Errors
    /// `NotSupported` for every class but the three; what is wrong with the instance; too many of them; `AlreadyExists`.
    pub async fn create<F: Future<Output = Result<(), String>>>(
        &self,
        caller: &Caller,
        namespace: &str,
        raw: &RawInstance,
        reachable: impl Fn(String) -> F,
    ) -> Result<(Instance, Option<Begun>), CimError> {
        let space = self.manager().schema().namespace(namespace)?;
        space.class(&raw.class)?;
        let Some(class) = makes(namespace, &raw.class) else {
            let message =
                "only filters, destinations and subscriptions of indications are made by CreateInstance";
            return Err(CimError::new(Status::NotSupported, message));
        };
        may(caller)?;
        let given = typed_instance(space, class, raw)?;
        self.room(caller, class)?;
        if class == SUBSCRIPTION {
            let (instance, begun) = self.begin(caller, space, &given).await?;
            return Ok((instance, Some(begun)));
        }
        let instance = match class {
            FILTER => self.filter(&given)?,
            _ => destination(&given, reachable).await?,
        };
        let instance = self.named(instance, &given)?;
        self.keep(caller, space, instance.clone(), None)?;
        Ok((instance, None))
    }

    /// Removes an instance; with a subscription its deliveries end. Their makers and administrators may.
    ///
    /// # Errors
    /// `NotSupported` for every class but the three; no such instance; a filter or destination that is used.
    pub fn delete(&self, caller: &Caller, namespace: &str, name: &InstanceName) -> Result<(), CimError> {
        let space = self.manager().schema().namespace(namespace)?;
        space.class(&name.class)?;
        if makes(namespace, &name.class).is_none() {
            let message =
                "only filters, destinations and subscriptions of indications are removed by DeleteInstance";
            return Err(CimError::new(Status::NotSupported, message));
        }
        may(caller)?;
        let name = typed_name(space, name.clone())?;
        let mut entries = self.manager().registry.entries();
        let at = entries.iter().position(|e| space.name_of(&e.instance) == name);
        let not_found = || {
            let message = "there is no such instance; subscriptions are gone after a restart of the daemon";
            CimError::new(Status::NotFound, message)
        };
        let entry = at.and_then(|at| entries.get(at)).ok_or_else(not_found)?;
        if entry.owner != caller.name && caller.role < roles::OTHERS {
            let message = format!(
                "{} has made it, and only an administrator may remove it too",
                entry.owner
            );
            return Err(CimError::new(Status::AccessDenied, message));
        }
        if entries.iter().any(|e| refers(&e.instance, &name)) {
            let message = "a subscription uses it: remove the subscription first";
            return Err(CimError::new(Status::Failed, message));
        }
        let removed = at.map(|at| entries.remove(at));
        drop(entries);
        if let Some(subscription) = removed.and_then(|e| e.subscription) {
            self.close(&subscription);
        }
        Ok(())
    }

    fn room(&self, caller: &Caller, class: &str) -> Result<(), CimError> {
        let entries = self.manager().registry.entries();
        let all = || entries.iter().filter(|e| e.instance.class == class);
        let own = all().filter(|e| e.owner == caller.name).count();
        if own < PER_USER && all().count() < IN_ALL {
            Ok(())
        } else {
            let message =
                format!("at most {PER_USER} {class} of a user and {IN_ALL} in all: delete one first");
            Err(CimError::new(Status::ServerLimitsExceeded, message))
        }
    }

    fn keep(
        &self,
        caller: &Caller,
        space: &Namespace,
        instance: Instance,
        subscription: Option<Arc<Subscription>>,
    ) -> Result<(), CimError> {
        let name = space.name_of(&instance);
        let mut entries = self.manager().registry.entries();
        if entries.iter().any(|e| space.name_of(&e.instance) == name) {
            let message = format!("there is such a {} already", instance.class);
            return Err(CimError::new(Status::AlreadyExists, message));
        }
        entries.push(Entry {
            instance,
            owner: caller.name.clone(),
            subscription,
        });
        Ok(())
    }

    /// The instance with its keys, of which a client chooses `Name` alone.
    fn named(&self, instance: Instance, given: &Instance) -> Result<Instance, CimError> {
        let name = match given.text("Name").map(str::trim) {
            None | Some("") => uuid::Uuid::new_v4().to_string(),
            Some(name) if name.chars().count() <= MAX_NAME => name.to_owned(),
            Some(_) => return Err(invalid(format!("Name is longer than {MAX_NAME} characters"))),
        };
        let class = instance.class.clone();
        Ok(instance
            .with("SystemCreationClassName", SYSTEM)
            .with("SystemName", self.manager().host().name.as_str())
            .with("CreationClassName", class)
            .with("ElementName", name.as_str())
            .with("Name", name))
    }

    fn filter(&self, given: &Instance) -> Result<Instance, CimError> {
        let wanted = |name: &str| {
            let text = given.text(name).filter(|t| !t.trim().is_empty());
            text.ok_or_else(|| invalid(format!("a filter needs {name}")))
        };
        let (text, language) = (wanted("Query")?, wanted("QueryLanguage")?);
        self.check(&query(text, language)?)?;
        source_namespaces(given)?;
        Ok(Instance::new(FILTER)
            .with("Query", text)
            .with("QueryLanguage", language)
            .with("SourceNamespace", VIRTUALIZATION)
            .with("SourceNamespaces", vec![VIRTUALIZATION])
            .with("IndividualSubscriptionSupported", true))
    }

    async fn begin(
        &self,
        caller: &Caller,
        space: &'static Namespace,
        given: &Instance,
    ) -> Result<(Instance, Begun), CimError> {
        let (filter, handler) = (
            self.end_of(space, given, "Filter")?,
            self.end_of(space, given, "Handler")?,
        );
        let text = |of: &Instance, name: &str| of.text(name).unwrap_or_default().to_owned();
        let duration = given.unsigned("SubscriptionDuration");
        let path = |of: &Instance| ObjectPath::new(INTEROP, space.name_of(of));
        let now = i64::try_from(self.manager().now().0).unwrap_or(0);
        let now = DateTime::Instant(now.saturating_mul(1000));
        let instance = Instance::new(SUBSCRIPTION)
            .with("Filter", path(&filter))
            .with("Handler", path(&handler))
            .with("OnFatalErrorPolicy", 4_u16)
            .with("FailureTriggerTimeInterval", FAILURE_TIME.as_secs())
            .with("SubscriptionState", 2_u16)
            .with("TimeOfLastStateChange", now)
            .with_some("SubscriptionDuration", duration)
            .with("SubscriptionStartTime", now)
            .with("RepeatNotificationPolicy", 2_u16);
        let query = query(&text(&filter, "Query"), &text(&filter, "QueryLanguage"))?;
        let expires = duration.map(Duration::from_secs);
        let subscription = self.subscribe(caller, &query, expires).await?;
        // No await from here to the end, where the future could be dropped: a subscription without its instance could never
        // be removed.
        let still = ["Filter", "Handler"];
        let kept = still
            .iter()
            .try_for_each(|end| self.end_of(space, given, end).map(|_| ()));
        let kept = kept.and_then(|()| self.keep(caller, space, instance.clone(), Some(subscription.clone())));
        if let Err(error) = kept {
            self.close(&subscription);
            return Err(error);
        }
        let begun = Begun {
            subscription,
            destination: text(&handler, "Destination"),
            filter: text(&filter, "Name"),
        };
        Ok((instance, begun))
    }

    /// The filter or destination that a subscription names as this end.
    fn end_of(&self, space: &Namespace, given: &Instance, end: &str) -> Result<Instance, CimError> {
        let Some(Value::Reference(path)) = given.get(end) else {
            return Err(invalid(format!("a subscription needs {end}")));
        };
        let entries = self.manager().registry.entries();
        let name = typed_name(space, path.name.clone())?;
        let mut found = entries.iter().map(|e| &e.instance);
        let found = found.find(|i| space.name_of(i) == name && i.class != SUBSCRIPTION);
        found.cloned().ok_or_else(|| {
            let shown = name.text("Name").unwrap_or_default();
            let shown: String = shown.chars().take(100).collect();
            invalid(format!(
                "{end}: there is no {} \"{shown}\" on this host",
                name.class
            ))
        })
    }
}

/// The query of a filter. A query in CQL is accepted as far as WQL writes it alike, with the same meaning.
fn query(text: &str, language: &str) -> Result<Query, CimError> {
    let is = |names: &[&str]| names.iter().any(|n| n.eq_ignore_ascii_case(language.trim()));
    let parsed = wql::parse(text).map_err(|e| CimError::new(Status::InvalidQuery, e.to_string()));
    if is(&["WQL", "WQL2", "DMTF:WQL"]) {
        return parsed;
    }
    let simple = |q: &Query| matches!(q, Query::Select(s) if s.columns == Columns::All && s.within.is_none());
    match parsed {
        Ok(query) if is(&["CQL", "DMTF:CQL"]) && simple(&query) => Ok(query),
        _ => {
            let shown: String = language.chars().take(100).collect();
            let message = format!("this query cannot be taken in the language {shown}; write it in WQL");
            Err(CimError::new(Status::QueryLanguageNotSupported, message))
        }
    }
}

fn source_namespaces(given: &Instance) -> Result<(), CimError> {
    let mut named: Vec<&str> = given.text("SourceNamespace").into_iter().collect();
    if let Some(Value::Array(items)) = given.get("SourceNamespaces") {
        named.extend(items.iter().filter_map(|i| {
            if let Value::Text(text) = i {
                Some(text.as_str())
            } else {
                None
            }
        }));
    }
    let here = |n: &&str| {
        n.replace('\\', "/")
            .trim_matches('/')
            .eq_ignore_ascii_case(VIRTUALIZATION)
    };
    if named.iter().all(here) {
        Ok(())
    } else {
        Err(invalid(format!(
            "SourceNamespaces: indications come from {VIRTUALIZATION} only"
        )))
    }
}

async fn destination<F: Future<Output = Result<(), String>>>(
    given: &Instance,
    reachable: impl Fn(String) -> F,
) -> Result<Instance, CimError> {
    let url = given.text("Destination").map(str::trim).unwrap_or_default();
    let answered = reachable(url.to_owned()).await;
    answered.map_err(|why| invalid(format!("Destination: {why}")))?;
    Ok(Instance::new(DESTINATION)
        .with("Destination", url)
        // Transient, also when the client asks for another value.
        .with("PersistenceType", 3_u16)
        .with("Protocol", 2_u16))
}

/// Whether an association leads to what has this name.
fn refers(instance: &Instance, name: &InstanceName) -> bool {
    let leads = |(_, value): &(String, Value)| matches!(value, Value::Reference(path) if path.name == *name);
    instance.class == SUBSCRIPTION
        && instance.properties.iter().any(leads)
        && !name.keys.iter().any(|(_, v)| matches!(v, KeyValue::Reference(_)))
}
