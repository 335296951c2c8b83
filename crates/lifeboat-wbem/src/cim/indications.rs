//! All subscriptions, and the changes they are notified of. That something has changed the engine tells. What has changed of an
//! instance is a difference between two samples of its class: instances are views, so samples are all that can be compared. A job
//! comes with what is told of it, so that none is missed however short it is. While there is no subscription nothing is watched,
//! and while nothing changes nothing is sampled. How indications reach a subscriber is not known here; until they do they wait in
//! the `subscription`.

use super::facts::{JobParts, Parts};
use super::located::{Found, entries};
pub use super::subscription::{IN_ALL, Indication, PER_USER, QUEUE, Subscription};
use super::watched::{EventQuery, Family, JOB, Kind, RELATIONSHIP, SYSTEM};
use super::{Caller, ObjectManager, VIRTUALIZATION, roles};
use lifeboat_cim::wql::Query;
use lifeboat_cim::{CimError, DateTime, Instance, Namespace, ObjectPath, Status, Value};
use lifeboat_engine::action::{Change, JobView, NotTold, Watch, What};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

/// The first `JobState` of a job that has ended.
const COMPLETED: u64 = 7;
/// Properties that change with the time alone. A difference in these alone is no change.
const VOLATILE: [&str; 2] = ["ElapsedTime", "OnTimeInMilliseconds"];
/// The time from 1601 to 1970 in units of 100 nanoseconds.
const SINCE_1601: i64 = 116_444_736_000_000_000;
/// Least time between two samples, however often something changes; it is less than any `WITHIN` asks for.
const LEAST: Duration = Duration::from_millis(250);
/// Time between two looks for subscriptions that have ended while nothing changed.
const SWEEP: Duration = Duration::from_secs(60);
/// At most one part in so many of the time is spent on samples.
const SHARE: u32 = 5;

/// Instances of one class by their names.
type Sample = BTreeMap<String, Instance>;

/// All subscriptions of a host.
pub struct Indications {
    manager: Arc<ObjectManager>,
    active: Mutex<BTreeMap<String, Arc<Subscription>>>,
    /// Held while samples are taken, so that a subscription begins between two of them.
    samples: tokio::sync::Mutex<BTreeMap<&'static str, Sample>>,
    /// A subscription has begun or ended.
    turned: Notify,
}

impl Indications {
    /// None yet.
    #[must_use]
    pub fn new(manager: Arc<ObjectManager>) -> Arc<Self> {
        Arc::new(Self {
            manager,
            active: Mutex::default(),
            samples: tokio::sync::Mutex::default(),
            turned: Notify::new(),
        })
    }

    fn active(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Subscription>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object manager whose instances are watched.
    #[must_use]
    pub fn manager(&self) -> &Arc<ObjectManager> {
        &self.manager
    }

    /// Begins a subscription: every change after the return of this is noticed. It ends `expires` from now, or, for `None`,
    /// when it is closed.
    ///
    /// # Errors
    /// A query that watches what cannot be watched, saying what can; too many subscriptions.
    pub async fn subscribe(
        &self,
        caller: &Caller,
        query: &Query,
        expires: Option<Duration>,
    ) -> Result<Arc<Subscription>, CimError> {
        let namespace = self.manager.schema.namespace(VIRTUALIZATION)?;
        let events = EventQuery::new(namespace, query)?;
        self.admit(caller)?;
        let mut samples = self.samples.lock().await;
        for class in &events.classes {
            if !samples.contains_key(class) {
                samples.insert(class, self.sample(class).await?);
            }
        }
        let subscription = Arc::new(Subscription::new(caller, events, expires));
        self.admit(caller)?;
        self.active()
            .insert(subscription.id.clone(), subscription.clone());
        self.turned.notify_one();
        Ok(subscription)
    }

    /// Whether a query could be subscribed to.
    ///
    /// # Errors
    /// As [`Indications::subscribe`].
    pub fn check(&self, query: &Query) -> Result<(), CimError> {
        let namespace = self.manager.schema.namespace(VIRTUALIZATION)?;
        EventQuery::new(namespace, query).map(|_| ())
    }

    fn admit(&self, caller: &Caller) -> Result<(), CimError> {
        self.sweep();
        let active = self.active();
        let own = active.values().filter(|s| s.owner == caller.name).count();
        if active.len() >= IN_ALL || own >= PER_USER {
            let text =
                format!("at most {PER_USER} subscriptions of a user and {IN_ALL} in all: end one first");
            return Err(CimError::new(Status::ServerLimitsExceeded, text));
        }
        Ok(())
    }

    /// The subscription of this id, if it is the caller's or the caller is an administrator.
    #[must_use]
    pub fn find(&self, caller: &Caller, id: &str) -> Option<Arc<Subscription>> {
        self.sweep();
        let may = |s: &&Arc<Subscription>| s.owner == caller.name || caller.role >= roles::OTHERS;
        self.active().get(id).filter(may).cloned()
    }

    /// Ends a subscription of this id that [`Indications::find`] finds; false when it finds none.
    pub fn end(&self, caller: &Caller, id: &str) -> bool {
        let found = self.find(caller, id);
        found.is_some_and(|found| self.close(&found))
    }

    /// Ends a subscription of any owner; false when it had ended before.
    pub fn close(&self, subscription: &Subscription) -> bool {
        let removed = self.active().remove(&subscription.id);
        subscription.close();
        self.turned.notify_one();
        removed.is_some()
    }

    fn sweep(&self) {
        self.active().retain(|_, s| {
            let ended = s.is_over();
            if ended {
                s.close();
            }
            !ended
        });
    }

    /// Watches for as long as it is polled, or until the engine ends.
    pub async fn run(self: Arc<Self>) {
        loop {
            if self.is_idle() {
                self.forget().await;
                // A subscription that began meanwhile has left a permit, so this returns at once.
                self.turned.notified().await;
                continue;
            }
            let watch = self.manager.management.watch();
            if self.follow(watch).await == NotTold::Ended {
                return;
            }
        }
    }

    /// Notifies of what is told, until there is no subscription, or something was missed, or the engine ends.
    async fn follow(&self, mut watch: Watch) -> NotTold {
        // The samples of subscriptions are older than the watch: what has changed in between is not told.
        let mut stale = BTreeSet::from([JOB, RELATIONSHIP, SYSTEM]);
        let mut due = Instant::now();
        let mut sweep = Instant::now() + SWEEP;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due), if !stale.is_empty() => {
                    let began = Instant::now();
                    stale = self.sample_again(&stale).await;
                    due = Instant::now() + LEAST.max(began.elapsed() * (SHARE - 1));
                }
                () = tokio::time::sleep_until(sweep) => sweep = Instant::now() + SWEEP,
                () = self.turned.notified() => {}
                told = watch.next() => match told {
                    Ok(change) => {
                        if stale.is_empty() {
                            due = due.max(Instant::now());
                        }
                        stale.extend(self.told(change).await);
                    }
                    Err(end) => return end,
                },
            }
            if self.is_idle() {
                return NotTold::Missed;
            }
        }
    }

    /// Takes in what the engine tells; the classes whose samples are not true any more.
    async fn told(&self, change: Change) -> &'static [&'static str] {
        match change.what {
            What::Job(job) => {
                self.job_changed(*job).await;
                &[]
            }
            What::JobRemoved { .. } => &[JOB],
            // A VM shows how its replication does, and a replication what its VM does.
            What::Vm { .. } | What::Relationship { .. } => &[RELATIONSHIP, SYSTEM],
            // What waits for a second person is shown as a job, and every change of it is recorded as an event.
            What::Event(_) => &[JOB],
        }
    }

    /// Notifies of a job that the engine has announced: it may begin and end between two samples.
    async fn job_changed(&self, job: JobView) {
        let Ok(namespace) = self.manager.schema.namespace(VIRTUALIZATION) else {
            return;
        };
        let mut samples = self.samples.lock().await;
        let (Some(before), Ok(classes)) = (samples.get_mut(JOB), entries(namespace, JOB)) else {
            return;
        };
        let active: Vec<_> = self.active().values().cloned().collect();
        let parts = Parts::Job(JobParts {
            job,
            vm_exists: false,
            now: self.manager.now(),
        });
        for new in super::classes::make(&classes, &self.manager.host, &parts) {
            let name = path(namespace, &new);
            match before.get(&name) {
                Some(old) if !differ(old, &new) || progress(&new) < progress(old) => continue,
                Some(old) => self.notify(&active, JOB, Kind::Modification, Some(old), Some(&new)),
                None => self.notify(&active, JOB, Kind::Creation, None, Some(&new)),
            }
            before.insert(name, new);
        }
    }

    /// Drops samples of classes that no subscription watches. A subscription that begins takes its own under the same lock.
    async fn forget(&self) {
        let mut samples = self.samples.lock().await;
        let active = self.active();
        samples.retain(|class, _| active.values().any(|s| s.classes.contains(class)));
    }

    /// Whether there is no subscription.
    fn is_idle(&self) -> bool {
        self.sweep();
        self.active().is_empty()
    }

    /// Samples those of these classes that are watched, and notifies of what changed; those that could not be sampled.
    async fn sample_again(&self, stale: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
        let mut samples = self.samples.lock().await;
        let active: Vec<_> = self.active().values().cloned().collect();
        samples.retain(|class, _| active.iter().any(|s| s.classes.contains(class)));
        let mut failed = BTreeSet::new();
        for (class, before) in samples.iter_mut().filter(|(class, _)| stale.contains(*class)) {
            let now = match self.sample(class).await {
                Ok(now) => now,
                // The old sample is kept, so that the next one shows what this one would have shown.
                Err(error) => {
                    warn!(class, %error, "not sampled for subscribers; it is tried again");
                    failed.insert(*class);
                    continue;
                }
            };
            for (kind, old, new) in changes(before, &now) {
                self.notify(&active, class, kind, old, new);
            }
            *before = now;
        }
        failed
    }

    /// Puts a change into the queue of every subscription whose query selects it.
    fn notify(
        &self,
        active: &[Arc<Subscription>],
        class: &str,
        kind: Kind,
        old: Option<&Instance>,
        new: Option<&Instance>,
    ) {
        let (Some(subject), Ok(namespace)) = (new.or(old), self.manager.schema.namespace(VIRTUALIZATION))
        else {
            return;
        };
        let previous = old.filter(|_| kind == Kind::Modification);
        let system = self.manager.system_columns();
        let (mut cim, mut wmi) = (None, None);
        let wanted = |s: &&Arc<Subscription>| s.classes.contains(&class) && s.kinds.contains(&kind);
        for to in active.iter().filter(wanted) {
            let made = match to.family {
                Family::Cim => &mut cim,
                Family::Wmi => &mut wmi,
            };
            let make = || Arc::new(self.event(namespace, to.family, kind, subject, previous));
            let event = made.get_or_insert_with(make);
            if to.select.selects(namespace, event, &system) {
                to.put(event.clone());
            }
        }
    }

    fn event(
        &self,
        namespace: &Namespace,
        family: Family,
        kind: Kind,
        subject: &Instance,
        previous: Option<&Instance>,
    ) -> Instance {
        let event = Instance::new(family.class(kind))
            .with(family.subject(), subject.clone())
            .with_some("PreviousInstance", previous.cloned());
        let now = i64::try_from(self.manager.now().0).unwrap_or(i64::MAX / 10_000_000);
        match family {
            Family::Cim => {
                let (host, name) = (&self.manager.host.name, namespace.name_of(subject));
                event
                    .with("IndicationTime", DateTime::Instant(now.saturating_mul(1000)))
                    .with("SourceInstanceHost", host.as_str())
                    .with(
                        "SourceInstanceModelPath",
                        format!("//{host}/{}:{name}", namespace.name),
                    )
            }
            Family::Wmi => {
                let ticks = i64::saturating_add(now.saturating_mul(10_000), SINCE_1601);
                event.with_some("TIME_CREATED", u64::try_from(ticks).ok())
            }
        }
    }

    async fn sample(&self, class: &str) -> Result<Sample, CimError> {
        let namespace: &Namespace = self.manager.schema.namespace(VIRTUALIZATION)?;
        let mut cursor = self.manager.enumerate(VIRTUALIZATION, class).await?;
        let mut sample = Sample::new();
        while let Some(Found { instance, .. }) = cursor.next().await? {
            sample.insert(path(namespace, &instance), instance);
        }
        Ok(sample)
    }
}

/// What differs between two samples.
fn changes<'a>(
    before: &'a Sample,
    now: &'a Sample,
) -> impl Iterator<Item = (Kind, Option<&'a Instance>, Option<&'a Instance>)> {
    let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
    let gone = gone.map(|(_, old)| (Kind::Deletion, Some(old), None));
    let here = now.iter().filter_map(|(name, new)| match before.get(name) {
        None => Some((Kind::Creation, None, Some(new))),
        Some(old) if differ(old, new) => Some((Kind::Modification, Some(old), Some(new))),
        Some(_) => None,
    });
    gone.chain(here)
}

fn path(namespace: &Namespace, instance: &Instance) -> String {
    ObjectPath::new(VIRTUALIZATION, namespace.name_of(instance)).to_string()
}

/// How far a job is. A sample may be ahead of what the engine has announced.
fn progress(job: &Instance) -> (bool, u64) {
    let number = |name| job.unsigned(name).unwrap_or(0);
    (number("JobState") >= COMPLETED, number("PercentComplete"))
}

/// Whether two samples of an instance differ in more than [`VOLATILE`]. Properties are always made in the same order.
fn differ(old: &Instance, new: &Instance) -> bool {
    let steady = |(name, _): &&(String, Value)| !VOLATILE.contains(&name.as_str());
    let (old, new) = (old.properties.iter(), new.properties.iter());
    !old.filter(steady).eq(new.filter(steady))
}
