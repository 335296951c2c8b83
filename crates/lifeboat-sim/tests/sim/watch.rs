//! What those who watch a host are told: every change once, in order, when it can be seen, and that they missed something when they
//! did. What happened is known from the hosts' catalogs, not from the feed.

use lifeboat_engine::Engine;
use lifeboat_engine::action::{
    Action, Answer, BEHIND, Change, EventView, JobView, Management, NotTold, PointSelector, ServerSettings,
    Turn, VmView, Watch, What,
};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_engine::records::Event;
use lifeboat_model::power::PowerState;
use lifeboat_model::{JobId, JobState, ReplicationState as State, VmId};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, TWO_HOSTS, commit, enable, failover, job, phase, refused, replicating, revert,
    simulate, simulate_small, start_test, state, stop_test, stop_vm,
};
use lifeboat_sim::{VM, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn watch(w: &World, host: usize) -> Watch {
    w.engine(host).unwrap().watch()
}

/// The next change, if one was told already.
async fn next(watch: &mut Watch) -> Option<Result<Change, NotTold>> {
    let next = tokio::task::unconstrained(watch.next());
    tokio::time::timeout(Duration::ZERO, next).await.ok()
}

/// Everything that was told and not heard yet. Nothing was missed.
async fn heard(watch: &mut Watch) -> Vec<Change> {
    let mut all = Vec::new();
    while let Some(change) = next(watch).await {
        all.push(change.unwrap());
    }
    all
}

fn turns(of: &[Change], vm: VmId) -> Vec<(&'static str, Turn)> {
    let turn = |c: &Change| match c.what {
        What::Vm { vm: about, turn } => (about == vm).then_some(("vm", turn)),
        What::Relationship { vm: about, turn } => (about == vm).then_some(("relationship", turn)),
        What::Job(_) | What::JobRemoved { .. } | What::Event(_) => None,
    };
    of.iter().filter_map(turn).collect()
}

fn events(of: &[Change]) -> Vec<EventView> {
    let event = |c: &Change| match &c.what {
        What::Event(event) => Some((**event).clone()),
        What::Vm { .. } | What::Relationship { .. } | What::Job(_) | What::JobRemoved { .. } => None,
    };
    of.iter().filter_map(event).collect()
}

/// Jobs in the order in which they were told.
fn jobs(of: &[Change]) -> Vec<JobView> {
    let job = |c: &Change| match &c.what {
        What::Job(job) => Some((**job).clone()),
        What::Vm { .. } | What::Relationship { .. } | What::JobRemoved { .. } | What::Event(_) => None,
    };
    of.iter().filter_map(job).collect()
}

fn recorded_events(w: &World, host: usize) -> Vec<Event> {
    w.shared.state().hosts[host].events.clone()
}

/// The beginning of a replication and what can be done with it, of a world whose hosts are watched.
async fn story(w: &mut World, mut after_each: impl AsyncFnMut(&mut World)) {
    replicating(w).await;
    after_each(w).await;
    for _ in 0..5 {
        w.write(10);
        w.run(10).await;
        after_each(w).await;
    }
    let vm = World::vm();
    w.insist(
        PRIMARY,
        Action::SuspendReplication {
            vm: vm.clone(),
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    w.run(5).await;
    w.insist(
        PRIMARY,
        Action::ResumeReplication {
            vm,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    w.run(20).await;
    after_each(w).await;
    w.cut(true);
    for action in [
        failover(PointSelector::Latest),
        revert(),
        failover(PointSelector::Latest),
        commit(),
    ] {
        assert_eq!(job(w, REPLICA, action).await, Ok(JobState::Completed));
        w.run(5).await;
        after_each(w).await;
    }
    w.run(20).await;
    after_each(w).await;
}

#[test]
fn a_story_is_told_whole_and_in_order() {
    simulate(1, async |w| {
        let mut watches = [watch(w, PRIMARY), watch(w, REPLICA)];
        let begun = [PRIMARY, REPLICA].map(|host| recorded_events(w, host).len());
        let mut told = [Vec::new(), Vec::new()];
        story(w, async |_| {
            for (told, watch) in told.iter_mut().zip(&mut watches) {
                told.extend(heard(watch).await);
            }
        })
        .await;
        for host in [PRIMARY, REPLICA] {
            let told = &told[host];
            let numbers: Vec<u64> = told.iter().map(|c| c.sequence).collect();
            let first = watches[host].begins();
            let expected: Vec<u64> = (first..).take(told.len()).collect();
            assert_eq!(numbers, expected);
            assert!(told.is_sorted_by_key(|c| c.at));

            let recorded: Vec<EventView> = recorded_events(w, host)
                .into_iter()
                .skip(begun[host])
                .map(EventView::from)
                .collect();
            assert!(!recorded.is_empty());
            assert_eq!(events(told), recorded, "host {host}");

            let mut last: BTreeMap<JobId, JobView> = BTreeMap::new();
            for job in jobs(told) {
                let before = last.insert(job.id, job.clone());
                let goes_on = |b: &JobView| !b.state.is_final() && b.percent <= job.percent;
                assert!(before.as_ref().is_none_or(goes_on), "{before:?} {job:?}");
            }
            for job in w.jobs(host) {
                assert_eq!(last.get(&job.id).map(|j| j.state), Some(job.state), "{job:?}");
            }

            let turns = turns(told, VM);
            let relationship: Vec<Turn> = turns
                .iter()
                .filter(|(of, _)| *of == "relationship")
                .map(|(_, turn)| *turn)
                .collect();
            assert_eq!(relationship[0], Turn::Made);
            assert!(relationship[1..].iter().all(|t| *t == Turn::Changed));
            assert!(relationship.len() > 10, "each cycle changes it: {relationship:?}");
            let made = turns.iter().filter(|t| **t == ("vm", Turn::Made)).count();
            assert_eq!(made, usize::from(host == REPLICA), "the primary had it before");
        }
    });
}

async fn shown(engine: &Engine) -> Option<VmView> {
    let action = Query::show_vm(World::vm()).action().clone();
    match engine.perform(None, action).await {
        Ok(Answer::Vm(view)) => Some(*view),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

/// Asks for everything that is told of, and holds the answer against what was told and what was recorded then.
async fn asks(
    engine: Arc<Engine>,
    mut watch: Watch,
    shared: Arc<lifeboat_sim::Shared>,
    host: usize,
) -> usize {
    let mut asked = 0;
    loop {
        let change = match watch.next().await {
            Ok(change) => change,
            Err(NotTold::Ended) => return asked,
            Err(NotTold::Missed) => panic!("it asks faster than things change"),
        };
        asked += 1;
        match change.what {
            What::Job(told) => {
                let answer = engine.perform(None, Action::ShowJob { job: told.id }).await;
                let Ok(Answer::Job(seen)) = answer else {
                    panic!("{answer:?}")
                };
                assert!(seen.percent >= told.percent, "{told:?} {seen:?}");
                assert!(seen.state == told.state || !told.state.is_final());
            }
            What::Event(told) => {
                let action = Action::ListEvents {
                    vm: None,
                    limit: 1000,
                    after: None,
                };
                let answer = engine.perform(None, action).await;
                let Ok(Answer::Events(seen)) = answer else {
                    panic!("{answer:?}")
                };
                assert!(seen.items.contains(&told), "{told:?}");
            }
            What::Relationship { vm, turn } => {
                assert_eq!(vm, VM);
                assert_ne!(turn, Turn::Removed);
                let then = {
                    let s = shared.state();
                    let all = &s.hosts[host].catalog.relationships;
                    all.iter().find(|r| r.vm == VM).cloned()
                };
                let view = shown(&engine).await;
                let seen = view.and_then(|v| v.replication).expect("there is one");
                if let Some(then) = then {
                    assert!(seen.last_replication >= then.last_replication);
                    assert_ne!(seen.position.at_or_after(then.position), Some(false));
                }
            }
            What::Vm { vm, turn } => {
                assert_eq!(vm, VM);
                assert_ne!(turn, Turn::Removed);
                assert!(shown(&engine).await.is_some());
            }
            What::JobRemoved { job, .. } => {
                let answer = engine.perform(None, Action::ShowJob { job }).await;
                assert!(answer.is_err(), "{answer:?}");
            }
        }
    }
}

#[test]
fn who_hears_of_a_change_and_asks_sees_it() {
    simulate(2, async |w| {
        let mut watches = [watch(w, PRIMARY), watch(w, REPLICA)];
        let tasks = [PRIMARY, REPLICA].map(|host| {
            let engine = w.engine(host).unwrap();
            tokio::spawn(asks(engine, watch(w, host), w.shared.clone(), host))
        });
        story(w, async |_| {}).await;
        for host in [PRIMARY, REPLICA] {
            w.stop(host).await;
        }
        for (task, watch) in tasks.into_iter().zip(&mut watches) {
            let mut told = 0;
            while watch.next().await.is_ok() {
                told += 1;
            }
            assert!(told > 10, "{told}");
            assert_eq!(task.await.unwrap(), told, "each was asked about");
        }
    });
}

#[test]
fn a_watcher_that_is_too_slow_is_told_and_goes_on() {
    simulate_small(3, TWO_HOSTS, async |w| {
        let (mut slow, mut quick) = (watch(w, PRIMARY), watch(w, PRIMARY));
        let settings = ServerSettings {
            enabled: true,
            ..lifeboat_sim::harness::server(w, PRIMARY).await.settings
        };
        let (mut told, mut changed) = (Vec::new(), 0);
        while told.len() <= BEHIND + 10 {
            let action = Action::SetServer {
                settings: settings.clone(),
            };
            w.insist(PRIMARY, action).await.unwrap();
            changed += 1;
            told.extend(heard(&mut quick).await);
        }
        assert_eq!(events(&told).len(), changed, "who keeps up misses nothing");
        assert_eq!(next(&mut slow).await, Some(Err(NotTold::Missed)));
        // What it asks for now is newer than anything it missed. It goes on with what it is told after that.
        let rest = heard(&mut slow).await;
        assert_eq!(rest, told[told.len() - rest.len()..]);
        assert_eq!(rest.len(), BEHIND);
        w.insist(PRIMARY, enable()).await.unwrap();
        let last = heard(&mut slow).await;
        assert_eq!(last[0].sequence, rest[BEHIND - 1].sequence + 1);
        assert!(turns(&last, VM).contains(&("relationship", Turn::Made)));
    });
}

#[test]
fn what_could_not_be_recorded_is_not_told() {
    simulate_small(4, TWO_HOSTS, async |w| {
        w.view(PRIMARY).await.unwrap();
        let mut watch = watch(w, PRIMARY);
        w.shared.state().hosts[PRIMARY].catalog_full = true;
        refused(w, PRIMARY, enable()).await;
        let settings = lifeboat_sim::harness::server(w, PRIMARY).await.settings;
        refused(w, PRIMARY, Action::SetServer { settings }).await;
        w.run(30).await;
        assert_eq!(heard(&mut watch).await, [], "nothing has happened");
        w.shared.state().hosts[PRIMARY].catalog_full = false;
        w.insist(PRIMARY, enable()).await.unwrap();
        let told = heard(&mut watch).await;
        assert_eq!(told[0].sequence, watch.begins());
        assert_eq!(turns(&told, VM), [("relationship", Turn::Made)]);
        assert_eq!(events(&told).len(), 1);
    });
}

#[test]
fn what_is_gone_is_told() {
    simulate_small(5, TWO_HOSTS, async |w| {
        replicating(w).await;
        let (mut here, mut there) = (watch(w, PRIMARY), watch(w, REPLICA));
        let begun = job(w, REPLICA, start_test(PointSelector::Latest)).await;
        assert_eq!(begun, Ok(JobState::Completed));
        let test = w.recorded(REPLICA).unwrap();
        let test = test.replica().unwrap().test.as_ref().unwrap().vm;
        let told = turns(&heard(&mut there).await, test);
        let (made, more) = told.split_at(2);
        assert_eq!(made, [("vm", Turn::Made), ("relationship", Turn::Made)]);
        assert!(more.iter().all(|(_, turn)| *turn == Turn::Changed), "{more:?}");
        assert_eq!(job(w, REPLICA, stop_test()).await, Ok(JobState::Completed));
        let told = turns(&heard(&mut there).await, test);
        let gone = [("relationship", Turn::Removed), ("vm", Turn::Removed)];
        assert!(told.ends_with(&gone), "{told:?}");
        let vms = w
            .insist_on(REPLICA, Query::list_vms(Paging::FIRST))
            .await
            .unwrap();
        assert!(vms.items.iter().all(|v| v.spec.uuid != test));

        for host in [PRIMARY, REPLICA] {
            let vm = World::vm();
            w.insist(
                host,
                Action::RemoveReplication {
                    vm,
                    relationship: Default::default(),
                },
            )
            .await
            .unwrap();
            w.run(5).await;
        }
        let told = turns(&heard(&mut here).await, VM);
        assert!(told.contains(&gone[0]) && !told.contains(&gone[1]), "{told:?}");
        assert!(turns(&heard(&mut there).await, VM).ends_with(&gone));

        let ended: Vec<JobId> = w.jobs(REPLICA).iter().map(|j| j.id).collect();
        assert!(!ended.is_empty());
        w.run(600).await;
        assert_eq!(w.jobs(REPLICA), []);
        let told = heard(&mut there).await;
        for job in ended {
            let gone = |c: &Change| matches!(c.what, What::JobRemoved { job: gone, .. } if gone == job);
            assert!(told.iter().any(gone), "{job}");
        }
    });
}

#[test]
fn another_start_of_the_daemon_is_another_feed() {
    simulate_small(6, TWO_HOSTS, async |w| {
        let mut before = watch(w, PRIMARY);
        assert_eq!(watch(w, PRIMARY).feed(), before.feed());
        assert_ne!(watch(w, REPLICA).feed(), before.feed());
        w.insist(PRIMARY, enable()).await.unwrap();
        w.restart(PRIMARY).await;
        let mut told = Vec::new();
        let end = loop {
            match before.next().await {
                Ok(change) => told.push(change),
                Err(end) => break end,
            }
        };
        assert_eq!(end, NotTold::Ended);
        assert!(turns(&told, VM).contains(&("relationship", Turn::Made)));
        assert_ne!(watch(w, PRIMARY).feed(), before.feed());
    });
}

#[test]
fn what_a_vm_does_is_told_and_the_passing_of_time_is_not() {
    simulate_small(7, TWO_HOSTS, async |w| {
        w.view(PRIMARY).await.unwrap();
        let mut watch = watch(w, PRIMARY);
        w.run(300).await;
        assert_eq!(heard(&mut watch).await, [], "it runs, and grows older");
        w.insist(PRIMARY, stop_vm(true)).await.unwrap();
        let heard = async {
            loop {
                let change = watch.next().await.unwrap();
                if change.what
                    == (What::Vm {
                        vm: VM,
                        turn: Turn::Changed,
                    })
                {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(11), heard)
            .await
            .unwrap();
        assert_eq!(w.view(PRIMARY).await.unwrap().power, PowerState::Off);
    });
}

#[test]
fn a_health_that_follows_from_the_time_is_told() {
    simulate_small(8, TWO_HOSTS, async |w| {
        replicating(w).await;
        w.run(60).await;
        let mut watch = watch(w, REPLICA);
        w.cut(true);
        w.run(5).await;
        // What was under way when the link was cut.
        heard(&mut watch).await;
        let before = w.view(REPLICA).await.unwrap().replication.unwrap();
        w.run(300).await;
        let after = w.view(REPLICA).await.unwrap().replication.unwrap();
        assert_ne!(
            before.health, after.health,
            "a primary that says nothing is a warning"
        );
        assert_eq!((state(w, REPLICA), phase(w)), (State::Replicating, None));
        let told = turns(&heard(&mut watch).await, VM);
        assert!(told.contains(&("relationship", Turn::Changed)), "{told:?}");
    });
}
