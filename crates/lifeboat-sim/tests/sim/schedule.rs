//! What begins by itself: copies and resynchronizations at their time, in the window of the settings, and not when somebody
//! took them back.

use lifeboat_engine::action::{Action, Answer, InitialCopy, JobView};
use lifeboat_model::{DayWindow, JobState, ReplicationState as State, Timestamp};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, enable, eventually, healthy, refused, replicating, simulate, start_copy, start_vm,
    state,
};

/// The world begins at 08:00.
const BEGIN: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;

fn at(hours: u64) -> Option<Timestamp> {
    Some(Timestamp(BEGIN + hours * HOUR))
}

async fn until(w: &World, minutes: u64) {
    let now = w.shared.now().0;
    w.run((BEGIN + minutes * 60_000).saturating_sub(now) / 1000).await;
}

async fn job_of(w: &World, action: Action) -> JobView {
    match w.insist(PRIMARY, action).await.unwrap() {
        Answer::Job(job) => job,
        other => panic!("{other:?}"),
    }
}

fn job(w: &World, of: &JobView) -> JobState {
    w.jobs(PRIMARY).into_iter().find(|j| j.id == of.id).unwrap().state
}

fn scheduled(w: &World) -> Option<Timestamp> {
    w.recorded(PRIMARY).unwrap().primary().unwrap().scheduled
}

fn copy_at(at: Option<Timestamp>) -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Network,
        at,
        relationship: Default::default(),
    }
}

fn resync_at(at: Option<Timestamp>) -> Action {
    Action::Resynchronize {
        vm: World::vm(),
        at,
        relationship: Default::default(),
    }
}

fn cancel_resync() -> Action {
    Action::CancelResync {
        vm: World::vm(),
        relationship: Default::default(),
    }
}

async fn enabled(w: &World) {
    w.insist(PRIMARY, enable()).await.unwrap();
}

/// Tracking is lost, and the primary knows.
async fn out_of_step(w: &World) {
    w.kill_vm(PRIMARY);
    w.insist(PRIMARY, start_vm()).await.unwrap();
    eventually(w, "the loss", |w| {
        state(w, PRIMARY) == State::WaitingToStartResynchronization
    })
    .await;
}

async fn window(w: &World, from_min: u16, to_min: u16) {
    let mut settings = w.recorded(PRIMARY).unwrap().settings;
    settings.auto_resync = Some(DayWindow { from_min, to_min });
    let vm = World::vm();
    w.insist(
        PRIMARY,
        Action::ModifyReplication {
            vm,
            settings,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
}

#[test]
fn an_initial_copy_waits_for_its_time_across_a_restart() {
    simulate(1, async |w| {
        enabled(w).await;
        let e = refused(w, PRIMARY, copy_at(Some(Timestamp(BEGIN + 169 * HOUR)))).await;
        assert!(e.message.contains("7 days"), "{e}");
        let waits = job_of(w, copy_at(at(5))).await;
        assert_eq!(
            (state(w, PRIMARY), job(w, &waits)),
            (State::ReadyForReplication, JobState::New)
        );
        until(w, 200).await;
        w.restart(PRIMARY).await;
        until(w, 299).await;
        assert_eq!(
            (state(w, PRIMARY), job(w, &waits)),
            (State::ReadyForReplication, JobState::New)
        );
        until(w, 302).await;
        assert_eq!(
            (state(w, PRIMARY), job(w, &waits)),
            (State::Replicating, JobState::Completed)
        );
        assert_eq!(scheduled(w), None);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_scheduled_copy_can_be_taken_back_put_off_and_begun_at_once() {
    simulate(2, async |w| {
        enabled(w).await;
        let waits = job_of(w, copy_at(at(1))).await;
        let cancelled = job_of(w, Action::CancelJob { job: waits.id }).await;
        assert_eq!((cancelled.state, scheduled(w)), (JobState::Terminated, None));
        until(w, 70).await;
        assert_eq!(state(w, PRIMARY), State::ReadyForReplication);
        let first = job_of(w, copy_at(at(2))).await;
        let second = job_of(w, copy_at(at(3))).await;
        assert_eq!(
            (job(w, &first), job(w, &second)),
            (JobState::Terminated, JobState::New)
        );
        until(w, 130).await;
        assert_eq!(
            (state(w, PRIMARY), scheduled(w)),
            (State::ReadyForReplication, at(3))
        );
        w.insist(PRIMARY, start_copy()).await.unwrap();
        eventually(w, "the copy", |w| state(w, PRIMARY) == State::Replicating).await;
        until(w, 200).await;
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_scheduled_resynchronization_does_not_stop_cycles_until_its_time() {
    simulate(3, async |w| {
        replicating(w).await;
        let waits = job_of(w, resync_at(at(1))).await;
        assert_eq!(state(w, PRIMARY), State::Replicating);
        let before = w.recorded(REPLICA).unwrap().newest_instant;
        until(w, 50).await;
        assert!(
            w.recorded(PRIMARY).unwrap().newest_instant > before,
            "replication goes on"
        );
        assert_eq!((job(w, &waits), scheduled(w)), (JobState::New, at(1)));
        until(w, 63).await;
        assert_eq!((job(w, &waits), scheduled(w)), (JobState::Completed, None));
        healthy(w, PRIMARY, REPLICA).await;
        // Taken back, it does not begin.
        let waits = job_of(w, resync_at(at(2))).await;
        assert_eq!(w.insist(PRIMARY, cancel_resync()).await.unwrap(), Answer::Done);
        assert_eq!((job(w, &waits), scheduled(w)), (JobState::Terminated, None));
        let again = job_of(w, resync_at(at(2))).await;
        let cancelled = job_of(w, Action::CancelJob { job: again.id }).await;
        assert_eq!(cancelled.state, JobState::Terminated);
        until(w, 130).await;
        assert_eq!((state(w, PRIMARY), scheduled(w)), (State::Replicating, None));
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn lost_tracking_is_resynchronized_by_itself_only_in_the_window() {
    simulate(4, async |w| {
        replicating(w).await;
        // From 10:00 to 11:00.
        window(w, 600, 660).await;
        out_of_step(w).await;
        until(w, 119).await;
        assert_eq!(state(w, PRIMARY), State::WaitingToStartResynchronization);
        w.restart(PRIMARY).await;
        until(w, 123).await;
        assert_eq!(state(w, PRIMARY), State::Replicating, "{:?}", w.recorded(PRIMARY));
        healthy(w, PRIMARY, REPLICA).await;
        // Inside the window it begins at once.
        w.kill_vm(PRIMARY);
        w.insist(PRIMARY, start_vm()).await.unwrap();
        let finished = |w: &World| {
            let s = w.shared.state();
            let all = s.hosts[PRIMARY].events.iter();
            all.filter(|e| e.message == "resynchronization finished").count()
        };
        eventually(w, "the resynchronization", |w| finished(w) == 2).await;
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_cancelled_resynchronization_does_not_start_before_the_next_window() {
    simulate(5, async |w| {
        replicating(w).await;
        out_of_step(w).await;
        w.cut(true);
        let begun = job_of(w, resync_at(None)).await;
        assert_eq!(state(w, PRIMARY), State::Resynchronizing);
        let mut settings = w.recorded(PRIMARY).unwrap().settings;
        settings.auto_resync = Some(DayWindow {
            from_min: 470,
            to_min: 660,
        });
        w.cut(false);
        let vm = World::vm();
        w.insist(
            PRIMARY,
            Action::ModifyReplication {
                vm,
                settings,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        w.act(PRIMARY, cancel_resync()).await.unwrap().unwrap();
        assert_eq!(job(w, &begun), JobState::Terminated);
        // 07:50 of the next day.
        let next = Some(Timestamp(BEGIN + 24 * HOUR - 600_000));
        assert_eq!(
            (state(w, PRIMARY), scheduled(w)),
            (State::WaitingToStartResynchronization, next)
        );
        until(w, 120).await;
        assert_eq!(state(w, PRIMARY), State::WaitingToStartResynchronization);
        // A person may begin it whenever they want.
        job_of(w, resync_at(None)).await;
        eventually(w, "the resynchronization", |w| {
            state(w, PRIMARY) == State::Replicating
        })
        .await;
        healthy(w, PRIMARY, REPLICA).await;
    });
}
