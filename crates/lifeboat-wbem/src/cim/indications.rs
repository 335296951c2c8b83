//! All subscriptions, and the changes they are notified of. A change is a difference between two samples of a watched class:
//! instances are views, so samples are all that can be compared. While there is no subscription, nothing is sampled. The
//! engine announces changes of jobs itself, so that a job shorter than the time between two samples is not missed. How
//! indications reach a subscriber is not known here; until they do they wait in the `subscription`.

use super::facts::{JobParts, Parts};
use super::located::{Found, entries};
pub use super::subscription::{IN_ALL, Indication, PER_USER, QUEUE, Subscription};
use super::watched::{EventQuery, Family, JOB, Kind};
use super::{Caller, ObjectManager, VIRTUALIZATION, roles};
use lifeboat_cim::wql::Query;
use lifeboat_cim::{CimError, DateTime, Instance, Namespace, ObjectPath, Status, Value};
use lifeboat_engine::action::JobView;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::warn;

/// The first `JobState` of a job that has ended.
const COMPLETED: u64 = 7;
/// How late a change may be noticed when a query does not say (`WITHIN`).
const PERIOD: Duration = Duration::from_secs(2);
/// Properties that change with the time alone. A difference in these alone is no change.
const VOLATILE: [&str; 1] = ["ElapsedTime"];
/// The time from 1601 to 1970 in units of 100 nanoseconds.
const SINCE_1601: i64 = 116_444_736_000_000_000;
/// Least time between two samples, however often jobs change.
const LEAST: Duration = Duration::from_millis(250);
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
    subscribed: Notify,
}

impl Indications {
    /// None yet.
    #[must_use]
    pub fn new(manager: Arc<ObjectManager>) -> Arc<Self> {
        Arc::new(Self {
            manager,
            active: Mutex::default(),
            samples: tokio::sync::Mutex::default(),
            subscribed: Notify::new(),
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
        self.subscribed.notify_one();
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
        let mut jobs = self.manager.management.watch_jobs();
        let (mut pause, mut due) = (LEAST, Instant::now());
        loop {
            let Some(period) = self.period() else {
                self.forget().await;
                // A subscription that began meanwhile has left a permit, so this returns at once.
                self.subscribed.notified().await;
                jobs = self.manager.management.watch_jobs();
                due = Instant::now();
                continue;
            };
            due = due.min(Instant::now() + period);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    let began = Instant::now();
                    self.sample_all().await;
                    pause = LEAST.max(began.elapsed() * (SHARE - 1));
                    due = Instant::now() + period.max(pause);
                }
                () = self.subscribed.notified() => {}
                job = jobs.recv() => match job {
                    Ok(job) => {
                        self.job_changed(job).await;
                        // Sample soon: the job may have changed its VM or its relationship.
                        due = due.min(Instant::now() + pause);
                    }
                    Err(RecvError::Lagged(_)) => due = due.min(Instant::now() + pause),
                    Err(RecvError::Closed) => return,
                },
            }
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

    /// Time between two samples; `None` while there is no subscription.
    fn period(&self) -> Option<Duration> {
        self.sweep();
        let active = self.active();
        let wanted = active.values().map(|s| s.select.within.unwrap_or(PERIOD));
        wanted.min().map(|p| p.clamp(LEAST, Duration::from_secs(60)))
    }

    /// Samples all watched classes and notifies of what changed.
    async fn sample_all(&self) {
        let mut samples = self.samples.lock().await;
        let active: Vec<_> = self.active().values().cloned().collect();
        samples.retain(|class, _| active.iter().any(|s| s.classes.contains(class)));
        for (class, before) in samples.iter_mut() {
            let now = match self.sample(class).await {
                Ok(now) => now,
                // The old sample is kept, so that the next one shows what this one would have shown.
                Err(error) => {
                    warn!(class, %error, "not sampled for subscribers");
                    continue;
                }
            };
            for (kind, old, new) in changes(before, &now) {
                self.notify(&active, class, kind, old, new);
            }
            *before = now;
        }
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
