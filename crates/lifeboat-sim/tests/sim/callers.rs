//! Who asked for what: events and jobs say it, of this host's callers and of other hosts, and after a restart too.

use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::by::{By, Surface};
use lifeboat_model::{JobState, JobType};
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, REPLICA, job, replicating, simulate};

/// Who is said to have asked for what the newest event with these words tells of.
fn asked(w: &World, host: usize, words: &str) -> Option<By> {
    let state = w.shared.state();
    let mut events = state.hosts[host].events.iter().rev();
    let event = events.find(|e| e.message.contains(words));
    let event = event.unwrap_or_else(|| panic!("no event on host {host} says: {words}"));
    event.by.clone()
}

#[test]
fn events_and_jobs_say_who_asked() {
    simulate(1, async |w| {
        replicating(w).await;
        let root = By::process(0, None);
        let primary = By {
            surface: Surface::Peer,
            name: "a".into(),
            from: None,
            account: None,
            confirmed: None,
        };
        assert_eq!(asked(w, REPLICA, "replica offered by"), Some(primary));
        // What goes on by itself is nobody's word.
        assert_eq!(asked(w, REPLICA, "initial copy finished"), None);
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
        assert_eq!(asked(w, PRIMARY, "suspended"), Some(root.clone()));
        w.insist(
            PRIMARY,
            Action::ResumeReplication {
                vm: vm.clone(),
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        let scrub = Action::Scrub { vm };
        assert_eq!(job(w, REPLICA, scrub).await, Ok(JobState::Completed));
        let by = |w: &World| {
            let jobs = w.jobs(REPLICA);
            let scrubs = jobs.iter().filter(|j| j.kind == JobType::Scrub);
            scrubs.map(|j| j.by.clone()).collect::<Vec<_>>()
        };
        assert_eq!(by(w), [Some(root.clone())]);
        w.restart(REPLICA).await;
        assert_eq!(by(w), [Some(root)]);
        let events = w
            .insist(
                REPLICA,
                Action::ListEvents {
                    vm: None,
                    limit: 100,
                    after: None,
                },
            )
            .await;
        let Ok(Answer::Events(events)) = events else {
            panic!("{events:?}")
        };
        assert!(
            events
                .items
                .iter()
                .any(|e| e.by.as_ref().is_some_and(|b| b.name == "a"))
        );
    });
}
