//! What was last seen of a VM from outside its actor: its power, and what the store says of its replica. Lists show it
//! when a fresh look takes too long, so that one VM that hangs costs nothing but its own line; and what is out of the
//! ordinary becomes an event when it begins and when it ends.
//!
//! Nothing is decided from it: an action looks by itself.

use crate::contract::{PowerNote, SeenPower, VmView};
use crate::host::Ports;
use crate::host::watch::Changes;
use crate::port::Clock;
use crate::port::catalog::Catalog;
use crate::port::hypervisor::{GuestProcess, Hypervisor, Power, PowerState};
use crate::port::store::{ImageStore, ReplicaInfo, StoreError};
use crate::record::Event;
use lifeboat_model::{DiskId, Finding, Note, ProblemKind, Timestamp, VmId, hint};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often every VM is looked at while no caller asks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// How long a list waits for a fresh look at one VM.
pub(crate) const GLANCE: Duration = Duration::from_millis(300);

/// How long a caller that asks for one VM waits for a fresh look at it. A look ends within 4 seconds.
pub(crate) const LOOK: Duration = Duration::from_millis(4500);

/// For how long a look may be under way before that itself is worth saying.
const HANGS: Duration = Duration::from_secs(10);

/// Something that is looked at by one task at a time, however many wait for it.
pub(crate) struct Watched<T> {
    state: Mutex<Look<T>>,
    done: watch::Sender<()>,
}

struct Look<T> {
    /// Since when a look is under way.
    pending: Option<(Instant, Timestamp)>,
    last: Option<Seen<T>>,
}

/// The outcome of a look.
#[derive(Clone)]
struct Seen<T> {
    began: Instant,
    value: T,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        let state = Look {
            pending: None,
            last: None,
        };
        Self {
            state: Mutex::new(state),
            done: watch::Sender::new(()),
        }
    }
}

/// The mark of a look under way, taken away whichever way it ends.
struct Pending<T>(Arc<Observer>, Which<T>);

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let watched = (self.1)(&self.0);
        watched.lock().pending = None;
        watched.done.send_replace(());
    }
}

/// Which of the things that are looked at.
type Which<T> = fn(&Observer) -> &Watched<T>;

/// Takes in an outcome; the text of an event when there is something to say.
type Told<T> = fn(&Observer, &T) -> Option<String>;

impl<T> Watched<T> {
    fn lock(&self) -> MutexGuard<'_, Look<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Watched<T> {
    /// The outcome of a look that began at `since` or later.
    fn since(&self, since: Instant) -> Option<T> {
        let state = self.lock();
        let seen = state.last.as_ref().filter(|s| s.began >= since);
        seen.map(|s| s.value.clone())
    }

    /// The outcome of the last look.
    fn last(&self) -> Option<T> {
        self.lock().last.as_ref().map(|s| s.value.clone())
    }

    /// Since when a look does not end that should have.
    fn hangs(&self) -> Option<Timestamp> {
        let pending = self.lock().pending;
        pending
            .filter(|(at, _)| at.elapsed() >= HANGS)
            .map(|(_, since)| since)
    }
}

/// What the present power means, since when, and what was there before.
#[derive(Default)]
struct History {
    /// The last state that was known.
    known: Option<SeenPower>,
    /// When the known state was seen to change. `None` before this daemon saw a change.
    changed: Option<Timestamp>,
    /// What is out of the ordinary: its state, its reason, and since when.
    trouble: Option<Trouble>,
}

struct Trouble {
    state: PowerState,
    reason: String,
    since: Timestamp,
    /// It was recorded as an event.
    told: bool,
}

/// What a store says of a replica.
pub(crate) type Stored = Arc<Result<ReplicaInfo, StoreError>>;

/// What is remembered of one VM beside its actor.
pub(crate) struct Observer {
    vm: VmId,
    clock: Arc<dyn Clock>,
    catalog: Arc<dyn Catalog>,
    changes: Arc<Changes>,
    power: Watched<Power>,
    pending: Watched<Option<u64>>,
    info: Watched<Stored>,
    history: Mutex<History>,
    view: Mutex<Option<VmView>>,
    /// Since when the actor has been busy with one thing; `None` while it waits.
    turn: Mutex<Option<Instant>>,
}

impl Observer {
    pub(crate) fn new(vm: VmId, ports: &Ports, changes: Arc<Changes>) -> Arc<Self> {
        Arc::new(Self {
            vm,
            clock: ports.clock.clone(),
            catalog: ports.catalog.clone(),
            changes,
            power: Watched::default(),
            pending: Watched::default(),
            info: Watched::default(),
            history: Mutex::default(),
            view: Mutex::default(),
            turn: Mutex::default(),
        })
    }

    /// The actor takes something up.
    pub(crate) fn begins(&self) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The actor waits for the next thing.
    pub(crate) fn rests(&self) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Since when the actor has been busy with one thing that it took up before `asked`.
    pub(crate) fn busy_since(&self, asked: Instant) -> Option<Instant> {
        let turn = *self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.filter(|began| *began < asked)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM's power as it is now; `None` when that takes longer than `patience`.
    /// Which VM it is about.
    pub(crate) fn vm(&self) -> VmId {
        self.vm
    }

    pub(crate) async fn power(
        self: &Arc<Self>,
        hypervisor: &Arc<dyn Hypervisor>,
        patience: Duration,
    ) -> Option<Power> {
        let look = || {
            let (hypervisor, vm) = (hypervisor.clone(), self.vm);
            async move { crate::host::power::look(&*hypervisor, vm).await }
        };
        self.fresh((|o| &o.power, Self::note), patience, look).await
    }

    /// Bytes of these disks that wait to be sent, as the VM's dirty bitmaps say now; `None` when they do not say it within
    /// `patience`. What they said before is no answer: it grows with every write.
    pub(crate) async fn pending(
        self: &Arc<Self>,
        hypervisor: &Arc<dyn Hypervisor>,
        disks: &[DiskId],
        patience: Duration,
    ) -> Option<u64> {
        let look = || {
            let (hypervisor, vm, disks) = (hypervisor.clone(), self.vm, disks.to_vec());
            async move { hypervisor.pending(vm, &disks).await }
        };
        self.fresh((|o| &o.pending, |_, _| None), patience, look)
            .await
            .flatten()
    }

    /// What the store says of the replica that the disks belong to, if they are in one; what it said last when that takes longer than `patience`.
    pub(crate) async fn info(
        self: &Arc<Self>,
        images: Option<&Arc<dyn ImageStore>>,
        of: VmId,
        patience: Duration,
    ) -> Option<Stored> {
        let look = || {
            let images = images.cloned();
            async move {
                Arc::new(match images {
                    Some(images) => images.info(of).await,
                    None => Err(StoreError::NoReplica(of)),
                })
            }
        };
        let fresh = self.fresh((|o| &o.info, |_, _| None), patience, look).await;
        fresh.or_else(|| self.info.last())
    }

    /// The outcome of a look that began now or later: an earlier one may have seen what is the past by now.
    async fn fresh<T, F>(
        self: &Arc<Self>,
        (watched, note): (Which<T>, Told<T>),
        patience: Duration,
        look: impl Fn() -> F + Send + Sync,
    ) -> Option<T>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let asked = Instant::now();
        let mut done = watched(self).done.subscribe();
        let wait = async {
            loop {
                done.borrow_and_update();
                if let Some(value) = watched(self).since(asked) {
                    return Some(value);
                }
                self.begin((watched, note), &look);
                // The sender lives as long as the observer.
                done.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, wait).await.ok()?
    }

    /// Begins a look unless one is under way.
    fn begin<T, F>(self: &Arc<Self>, (watched, note): (Which<T>, Told<T>), look: &impl Fn() -> F)
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let began = Instant::now();
        {
            let mut state = watched(self).lock();
            if state.pending.is_some() {
                return;
            }
            state.pending = Some((began, self.clock.now()));
        }
        let (pending, looking) = (Pending(self.clone(), watched), look());
        tokio::spawn(async move {
            let value = looking.await;
            let text = note(&pending.0, &value);
            watched(&pending.0).lock().last = Some(Seen { began, value });
            let observer = pending.0.clone();
            drop(pending);
            if let Some(message) = text {
                observer.event(message).await;
            }
        });
    }

    async fn event(&self, message: String) {
        let event = Event {
            at: self.clock.now(),
            vm: Some(self.vm),
            message,
            hint: None,
            by: None,
        };
        if let Err(error) = self.catalog.add_event(&event).await {
            tracing::warn!(vm = %self.vm, %error, message = event.message, "event not recorded");
        }
    }

    /// Takes a look's outcome into the history; the text of an event when something began or ended.
    fn note(&self, power: &Power) -> Option<String> {
        let now = self.clock.now();
        let mut history = self.history();
        let state = power.state();
        let before = match &history.trouble {
            Some(trouble) => Some(trouble.state),
            None => history.known.map(|k| k.power),
        };
        let (trouble, text) = follow(history.trouble.take(), power, now);
        history.trouble = trouble;
        if before != Some(state) || text.is_some() {
            // It is told when it is shown; other things that are shown follow from it.
            self.changes.look_at(self.vm);
        }
        if state != PowerState::Unknown {
            if history.known.is_some_and(|k| k.power != state) {
                history.changed = Some(now);
            }
            history.known = Some(SeenPower {
                power: state,
                at: now,
            });
        }
        text
    }

    /// When the power became what it was when it was last known; before this daemon saw it change, since its process
    /// exists. The first word on a process is kept: computed again from its age, it would waver with each look.
    pub(crate) fn changed(&self, process: Option<GuestProcess>) -> Option<Timestamp> {
        let now = self.clock.now();
        let mut history = self.history();
        if let (Some(process), None) = (process, history.changed) {
            history.changed = Some(Timestamp(now.0.saturating_sub(process.age_ms)));
        }
        history.changed
    }

    /// What is out of the ordinary about this power, for people.
    fn note_of(&self, power: &Power) -> Option<PowerNote> {
        let history = self.history();
        let reason = power.reason()?;
        let began = history.trouble.as_ref().filter(|t| t.state == power.state());
        Some(PowerNote {
            reason,
            since: began.map_or_else(|| self.clock.now(), |t| t.since),
            before: history.known.filter(|_| power.state() == PowerState::Unknown),
        })
    }

    /// What to say of a VM that did not answer in time.
    fn silent(&self) -> (PowerState, PowerNote) {
        let history = self.history();
        let since = match &history.trouble {
            Some(t) if t.state == PowerState::Unknown => t.since,
            Some(_) | None => self
                .power
                .lock()
                .pending
                .map_or_else(|| self.clock.now(), |p| p.1),
        };
        let reason = match &history.trouble {
            Some(t) if t.state == PowerState::Unknown => t.reason.clone(),
            Some(_) | None => format!("it did not answer within {} ms", GLANCE.as_millis()),
        };
        let note = PowerNote {
            reason,
            since,
            before: history.known,
        };
        (PowerState::Unknown, note)
    }

    /// What of it belongs into the health of a replication.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(trouble) = &self.history().trouble {
            let since = crate::host::question::time_of_day(trouble.since);
            match trouble.state {
                PowerState::Stalled => {
                    let text = format!("the guest is stalled since {since}: {}", trouble.reason);
                    let note = Note::new(text, hint::Guest::CureAndResume);
                    found.push(Finding::critical(ProblemKind::GuestStalled, note));
                }
                PowerState::Unknown if trouble.told => {
                    let text = format!(
                        "whether the VM runs is not known since {since}: {}",
                        trouble.reason
                    );
                    found.push(Finding::warning(ProblemKind::PowerNotKnown, text));
                }
                PowerState::Unknown | PowerState::Off | PowerState::Running | PowerState::Paused => {}
            }
        }
        if let Some(since) = self.info.hangs() {
            let text = format!(
                "the storage of the replica does not answer since {}",
                crate::host::question::time_of_day(since)
            );
            found.push(Finding::critical(ProblemKind::StorageSilent, text));
        }
        found
    }

    /// Remembers the VM as it was shown last, and tells those who watch when it was shown in another way before.
    pub(crate) fn publish(&self, view: &VmView) {
        let mut shown = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shown.replace(view.clone());
        if let Some(before) = before {
            self.changes.shown(&before, view);
        }
    }

    /// The VM as it was shown last, because its actor did not answer in time; with its power as it is now, where that was
    /// seen.
    pub(crate) fn past(&self, power: Option<&Power>) -> Option<VmView> {
        let past = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        past.map(|view| {
            let (power, power_note) = self.shown(power);
            VmView {
                power,
                power_note,
                ..view
            }
        })
    }

    /// How a power is shown that was seen, or was not seen in time.
    pub(crate) fn shown(&self, power: Option<&Power>) -> (PowerState, Option<PowerNote>) {
        match power {
            Some(power) => (power.state(), self.note_of(power)),
            None => {
                let (power, note) = self.silent();
                (power, Some(note))
            }
        }
    }
}

/// Follows what is out of the ordinary from one look to the next. A look that failed once is no event: the next one says
/// whether it means anything.
fn follow(before: Option<Trouble>, power: &Power, now: Timestamp) -> (Option<Trouble>, Option<String>) {
    let state = power.state();
    let Some(reason) = power.reason() else {
        let text = before.filter(|t| t.told).map(|t| match t.state {
            PowerState::Stalled => format!("the guest is no longer stalled: the VM is {}", word(state)),
            PowerState::Unknown | PowerState::Off | PowerState::Running | PowerState::Paused => {
                format!("it is known again what the VM does: it is {}", word(state))
            }
        });
        return (None, text);
    };
    let same = before.filter(|t| t.state == state);
    let again = same.is_some();
    let was_told = same.as_ref().is_some_and(|t| t.told);
    let told = was_told || state == PowerState::Stalled || again;
    let text = (told && !was_told).then(|| match state {
        PowerState::Stalled => format!("the guest is stalled: {reason}"),
        PowerState::Unknown | PowerState::Off | PowerState::Running | PowerState::Paused => {
            format!("it is not known what the VM does: {reason}")
        }
    });
    let trouble = Trouble {
        state,
        reason,
        since: same.map_or(now, |t| t.since),
        told,
    };
    (Some(trouble), text)
}

fn word(state: PowerState) -> &'static str {
    match state {
        PowerState::Off => "off",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Stalled => "stalled",
        PowerState::Unknown => "not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::hypervisor::{Stall, StallCause};

    fn full() -> Power {
        Power::Stalled(Stall {
            cause: StallCause::NoSpace,
            disks: vec![DiskId::new("sys").unwrap()],
        })
    }

    fn blind() -> Power {
        Power::NotKnown {
            why: "its sockets are gone".into(),
        }
    }

    /// The events of a sequence of looks, one each second.
    fn events(looks: &[Power]) -> Vec<(u64, String)> {
        let mut trouble = None;
        let mut said = Vec::new();
        for (at, power) in (0..).zip(looks) {
            let (next, text) = follow(trouble.take(), power, Timestamp(at));
            trouble = next;
            said.extend(text.map(|t| (at, t)));
        }
        said
    }

    #[test]
    fn a_stall_is_an_event_when_it_begins_and_when_it_ends() {
        let said = events(&[Power::Running, full(), full(), Power::Running, Power::Off]);
        assert_eq!(
            said,
            [
                (1, "the guest is stalled: no space left for disk sys".to_owned()),
                (3, "the guest is no longer stalled: the VM is running".to_owned()),
            ]
        );
    }

    #[test]
    fn one_look_that_fails_is_no_event_and_two_are() {
        assert!(events(&[Power::Running, blind(), Power::Running]).is_empty());
        let said = events(&[Power::Running, blind(), blind(), blind(), Power::Off]);
        let at: Vec<u64> = said.iter().map(|s| s.0).collect();
        assert_eq!(at, [2, 4], "{said:?}");
        assert!(said[0].1.contains("its sockets are gone"));
        assert!(said[1].1.ends_with("it is off"));
    }
}
