//! Who asked for what: events and jobs say it, of this host's callers and of other hosts, and after a restart too.

use crate::common::{job, replicating, simulate};
use lifeboat_engine::action::Action;
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::query::Query;
use lifeboat_model::{JobState, JobType};
use lifeboat_sim::World;

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
        assert_eq!(asked(w, 1, "replica offered by"), Some(primary));
        // What goes on by itself is nobody's word.
        assert_eq!(asked(w, 1, "initial copy finished"), None);
        let vm = World::vm();
        w.insist(0, Action::SuspendReplication { vm: vm.clone() })
            .await
            .unwrap();
        assert_eq!(asked(w, 0, "suspended"), Some(root.clone()));
        w.insist(0, Action::ResumeReplication { vm: vm.clone() })
            .await
            .unwrap();
        let scrub = Action::Scrub { vm };
        assert_eq!(job(w, 1, scrub).await, Ok(JobState::Completed));
        let by = |w: &World| {
            let jobs = w.jobs(1);
            let scrubs = jobs.iter().filter(|j| j.kind == JobType::Scrub);
            scrubs.map(|j| j.by.clone()).collect::<Vec<_>>()
        };
        assert_eq!(by(w), [Some(root.clone())]);
        w.restart(1).await;
        assert_eq!(by(w), [Some(root)]);
        let events = w.insist_on(1, Query::list_events(None, 100)).await.unwrap();
        assert!(
            events
                .items
                .iter()
                .any(|e| e.by.as_ref().is_some_and(|b| b.name == "a"))
        );
    });
}
