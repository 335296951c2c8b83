//! What cannot be undone waits for a second person: who is one, what waits and what does not, and what restarts, crashes and
//! clocks do to requests.

use std::time::Duration;

use lifeboat_engine::action::{
    Action, Answer, PointSelector, Refusal, RelationshipRef, RequestStage, RequestView,
};
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::person::Account;
use lifeboat_engine::query::Query;
use lifeboat_engine::records::FailoverPhase;
use lifeboat_engine::requests::{IN_ALL, LASTS, OF_ONE};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{
    AuthorizationEntry, JobType, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State,
    RequestId,
};
use lifeboat_sim::harness::{
    A, B, FOUR_HOSTS, commit, entry, eventually, extend, failover, flows, four_eyes, history, job, mode,
    phase, planned, points, remove, replicating, resume, revert, simulate, simulate_small, state, suspend,
};
use lifeboat_sim::{Fault, VM, World};

const DAY_MS: i64 = 24 * 3_600_000;

/// Root by `sudo`, logged in as this user.
fn sudo(login: u32, user: &str) -> By {
    let account = Account {
        uid: 0,
        login: Some(login),
        user: Some(user.into()),
    };
    By::of(account, Some(7))
}

fn ada() -> By {
    sudo(1000, "ada")
}

fn bob() -> By {
    sudo(1001, "bob")
}

/// A user of the management API.
fn user(name: &str) -> By {
    By {
        surface: Surface::Wsman,
        name: name.into(),
        from: None,
        account: None,
        confirmed: None,
    }
}

async fn asks(w: &World, host: usize, by: By, action: Action) -> Result<Answer, Refusal> {
    w.act_by(host, Some(by), action).await.expect("the daemon lives")
}

/// The request that a wish became.
async fn waits(w: &World, host: usize, by: By, action: Action) -> RequestId {
    let refusal = asks(w, host, by, action.clone()).await.expect_err("it waits");
    assert_eq!(refusal.code, ReturnCode::AccessDenied, "{refusal}");
    let id = refusal.request.unwrap_or_else(|| panic!("{action:?}: {refusal}"));
    let confirm = hint::Again::Confirm { request: id };
    assert_eq!(refusal.hint, Some(confirm.into()));
    id
}

fn confirm(request: RequestId) -> Action {
    Action::ConfirmRequest { request }
}

fn deny(request: RequestId) -> Action {
    Action::DenyRequest { request }
}

async fn listed(w: &World, host: usize) -> Vec<RequestView> {
    w.insist_on(host, Query::list_requests()).await.unwrap()
}

fn remove_entry() -> Action {
    Action::RemoveAuthorization { primary: "a".into() }
}

fn has_entry(w: &World) -> bool {
    let s = w.shared.state();
    s.hosts[B].catalog.entries.iter().any(|e| e.primary == "a")
}

fn events(w: &World, host: usize, words: &str) -> Vec<Option<By>> {
    let s = w.shared.state();
    let told = s.hosts[host].events.iter().filter(|e| e.message.contains(words));
    told.map(|e| e.by.clone()).collect()
}

async fn failed_over(w: &mut World) {
    history(w, 8, 0).await;
    job(w, B, failover(PointSelector::Latest)).await.unwrap();
}

#[test]
fn a_commit_waits_for_another_person_and_names_both() {
    simulate(1, async |w| {
        four_eyes(w, &[A, B]).await;
        // A failover does not wait, nor does a revert.
        failed_over(w).await;
        job(w, B, revert()).await.unwrap();
        job(w, B, failover(PointSelector::Latest)).await.unwrap();
        let before = points(w).await;
        let id = waits(w, B, ada(), commit()).await;
        w.run(60).await;
        assert_eq!((state(w, B), points(w).await), (State::Recovered, before));
        // Neither she herself, however she comes, nor somebody who may be she.
        for by in [ada(), user("ada"), user("Ada"), By::process(0, None)] {
            let e = asks(w, B, by, confirm(id)).await.unwrap_err();
            assert_eq!((e.code, e.request), (ReturnCode::AccessDenied, None), "{e}");
        }
        let e = w.act_by(B, None, confirm(id)).await.unwrap().unwrap_err();
        assert_eq!(e.code, ReturnCode::AccessDenied, "{e}");
        assert_eq!(state(w, B), State::Recovered);
        let request = listed(w, B).await.remove(0);
        assert_eq!((request.id, request.vm, &request.by), (id, Some(VM), &ada()));
        let Ok(Answer::Job(job)) = asks(w, B, bob(), confirm(id)).await else {
            panic!("it is carried out by a job")
        };
        let both = ada().confirmed_by(bob());
        assert_eq!((job.kind, job.by), (JobType::CommitFailover, Some(both.clone())));
        eventually(w, "the commit", |w| phase(w) == Some(FailoverPhase::Done)).await;
        assert_eq!(events(w, B, "failover is being committed"), [Some(both.clone())]);
        assert_eq!(events(w, B, "is being carried out by job"), [Some(both.clone())]);
        assert_eq!(both.names(), "root for ada, confirmed by root for bob");
        assert_eq!(listed(w, B).await, []);
        // It is used up.
        let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
        assert_eq!(e.code, ReturnCode::FileNotFound, "{e}");
    });
}

#[test]
fn without_four_eyes_no_request_waits() {
    simulate(2, async |w| {
        assert_eq!(asks(w, B, ada(), remove_entry()).await, Ok(Answer::Done));
        assert!(!has_entry(w) && listed(w, B).await.is_empty());
    });
}

fn changed(w: &World, change: fn(&mut ReplicationSettings)) -> Action {
    let mut settings = w.recorded(A).unwrap().settings;
    change(&mut settings);
    Action::ModifyReplication {
        vm: World::vm(),
        settings,
        relationship: Default::default(),
    }
}

#[test]
fn only_less_history_and_removals_wait_for_a_second_person() {
    simulate(3, async |w| {
        four_eyes(w, &[A, B]).await;
        replicating(w).await;
        let more = changed(w, |s| (s.history, s.any_point_window_s) = (9, 900));
        assert_eq!(asks(w, A, ada(), more).await, Ok(Answer::Done));
        let settings = w.recorded(A).unwrap().settings;
        let less: [fn(&mut ReplicationSettings); 4] = [
            |s| s.history = 8,
            |s| s.any_point_window_s = 899,
            |s| s.point_spacing_s = 29,
            |s| drop(s.disks.pop()),
        ];
        for less in less {
            waits(w, A, ada(), changed(w, less)).await;
        }
        let vm = World::vm;
        for removal in [
            remove(),
            Action::ForgetReplication { vm: vm() },
            Action::RemoveReplication {
                vm: vm(),
                relationship: RelationshipRef::Outgoing,
            },
            Action::DropAbandoned { vm: vm() },
        ] {
            waits(w, A, ada(), removal.clone()).await;
            waits(w, B, ada(), removal).await;
        }
        waits(w, B, ada(), remove_entry()).await;
        w.run(30).await;
        assert_eq!(w.recorded(A).unwrap().settings, settings);
        assert!(has_entry(w) && flows(w, A, B));
        // What a request names is this VM, not whoever has its name by then.
        let exact = VM.to_string();
        for request in listed(w, A).await.into_iter().chain(listed(w, B).await) {
            assert!(
                request.action.vm().is_none_or(|vm| vm.to_string() == exact),
                "{request:?}"
            );
        }
        // What is refused without it is refused at once.
        let none = Action::RemoveAuthorization { primary: "x".into() };
        let e = asks(w, B, ada(), none).await.unwrap_err();
        assert_eq!((e.code, e.request), (ReturnCode::FileNotFound, None));
        // Everything that keeps replication going.
        for action in [suspend(), resume(), Action::ReplicateNow { vm: vm() }] {
            asks(w, A, ada(), action).await.unwrap();
        }
        // A whole planned failover, which commits by itself.
        job(w, A, planned(true)).await.unwrap();
        eventually(w, "the other direction", |w| flows(w, B, A)).await;
    });
}

#[test]
fn one_person_alone_cannot_weaken_an_entry() {
    simulate(4, async |w| {
        replicating(w).await;
        let entry = |primary: &str, keep| AuthorizationEntry {
            primary: primary.into(),
            storage_location: "/replicas".into(),
            trust_group: "t".into(),
            allow_start: true,
            keep_at_least_s: keep,
            locked_until: None,
            quota: Default::default(),
        };
        let add = |primary: &str, keep| Action::AddAuthorization {
            entry: entry(primary, keep),
        };
        let bind = |primary: &str| Action::SetAuthorization {
            vm: World::vm(),
            primary: primary.into(),
        };
        four_eyes(w, &[B]).await;
        for action in [
            add("a", 100),
            add("long.example.org", 900),
            bind("long.example.org"),
        ] {
            assert_eq!(asks(w, B, ada(), action).await, Ok(Answer::Done));
        }
        waits(w, B, ada(), add("A", 99)).await;
        // The other entry does not cover the primary: it counts as long as the replica is bound to it.
        let id = waits(w, B, ada(), bind("a")).await;
        assert_eq!(asks(w, B, ada(), add("a", 900)).await, Ok(Answer::Done));
        assert_eq!(asks(w, B, bob(), confirm(id)).await, Ok(Answer::Done));
        let bound = w.recorded(B).unwrap();
        assert_eq!(bound.replica().unwrap().allowed.as_deref(), Some("a"));
    });
}

#[test]
fn calls_of_other_hosts_do_not_wait() {
    simulate(5, async |w| {
        replicating(w).await;
        four_eyes(w, &[B]).await;
        let less = changed(w, |s| s.history = 1);
        w.insist(A, less).await.unwrap();
        assert_eq!(w.recorded(B).unwrap().settings.history, 1);
        // Asked for on the host that does not want a second person; the other one commits by the primary's word.
        job(w, A, planned(true)).await.unwrap();
        eventually(w, "the other direction", |w| flows(w, B, A)).await;
        assert_eq!(listed(w, B).await, []);
    });
}

#[test]
fn a_confirmed_request_is_judged_by_the_state_at_its_confirmation() {
    simulate(6, async |w| {
        four_eyes(w, &[B]).await;
        failed_over(w).await;
        let id = waits(w, B, ada(), commit()).await;
        job(w, B, revert()).await.unwrap();
        let before = points(w).await;
        let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
        assert_eq!((e.code, e.request), (ReturnCode::InvalidState, None), "{e}");
        assert_eq!((mode(w, B), points(w).await), (Mode::Replica, before));
        assert_eq!(
            events(w, B, "was confirmed and refused"),
            [Some(ada().confirmed_by(bob()))]
        );
        assert_eq!(listed(w, B).await, []);
    });
}

#[test]
fn a_request_is_denied_by_anybody_and_nothing_comes_of_it() {
    simulate(7, async |w| {
        four_eyes(w, &[B]).await;
        for by in [bob(), ada()] {
            let id = waits(w, B, ada(), remove_entry()).await;
            assert_eq!(asks(w, B, by.clone(), deny(id)).await, Ok(Answer::Done));
            assert_eq!(events(w, B, &format!("request {id} is denied")), [Some(by)]);
            let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
            assert_eq!(e.code, ReturnCode::FileNotFound);
        }
        assert!(has_entry(w));
    });
}

#[test]
fn equal_requests_are_merged_and_their_number_is_limited() {
    simulate(8, async |w| {
        four_eyes(w, &[B]).await;
        let primary = |n: usize| format!("p{n}.example.org");
        for n in 0..=IN_ALL {
            let entry = entry(&primary(n), "/replicas");
            let add = Action::AddAuthorization { entry };
            assert_eq!(asks(w, B, ada(), add).await, Ok(Answer::Done));
        }
        let remove = |n: usize| Action::RemoveAuthorization { primary: primary(n) };
        let first = waits(w, B, ada(), remove(0)).await;
        assert_eq!(waits(w, B, user("ada"), remove(0)).await, first);
        // Another person is told whose it is, and may confirm it.
        let e = asks(w, B, bob(), remove(0)).await.unwrap_err();
        assert!(e.request == Some(first) && e.message.contains("ada"), "{e}");
        for n in 1..OF_ONE {
            waits(w, B, ada(), remove(n)).await;
        }
        let full = |e: Refusal| assert_eq!((e.code, e.request), (ReturnCode::InUse, None), "{e}");
        full(asks(w, B, ada(), remove(OF_ONE)).await.unwrap_err());
        for n in OF_ONE..IN_ALL {
            waits(w, B, user(&format!("user{}", n / OF_ONE)), remove(n)).await;
        }
        full(asks(w, B, user("late"), remove(IN_ALL)).await.unwrap_err());
        // No name, no request.
        let e = w.act_by(B, None, remove(IN_ALL)).await.unwrap().unwrap_err();
        assert_eq!((e.code, e.request), (ReturnCode::AccessDenied, None));
        assert_eq!(listed(w, B).await.len(), IN_ALL);
        asks(w, B, bob(), deny(first)).await.unwrap();
        waits(w, B, user("late"), remove(IN_ALL)).await;
    });
}

#[test]
fn a_removal_is_of_the_host_that_was_meant_when_it_was_asked_for() {
    simulate_small(10, FOUR_HOSTS, async |w| {
        let vm = || World::vm();
        let remove = |relationship| Action::RemoveReplication {
            vm: vm(),
            relationship,
        };
        replicating(w).await;
        job(w, B, extend("c:7000")).await.unwrap();
        four_eyes(w, &[B]).await;
        let id = waits(w, B, ada(), remove(RelationshipRef::Outgoing)).await;
        assert!(listed(w, B).await[0].what.contains("replication to c:7000"));
        let same = waits(w, B, ada(), remove(RelationshipRef::Peer("c".into()))).await;
        assert_eq!(same, id, "whichever way it is named");
        // Until it is confirmed, the only outgoing relationship is another one.
        w.shared.state().hosts[B].four_eyes = false;
        w.restart(B).await;
        w.insist(B, remove(RelationshipRef::Outgoing)).await.unwrap();
        job(w, B, extend("d:7000")).await.unwrap();
        four_eyes(w, &[B]).await;
        let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
        assert!(e.message.contains("c:7000"), "{e}");
        let there = w.recorded(B).unwrap();
        let there: Vec<_> = there
            .outgoing()
            .iter()
            .map(|one| one.settings.peer.as_str())
            .collect();
        assert_eq!(there, ["d:7000"]);
    });
}

#[test]
fn a_request_survives_a_restart_and_the_end_of_four_eyes() {
    simulate(9, async |w| {
        four_eyes(w, &[B]).await;
        let id = waits(w, B, ada(), remove_entry()).await;
        let before = listed(w, B).await;
        w.restart(B).await;
        w.reboot(B).await;
        w.shared.state().hosts[B].four_eyes = false;
        w.restart(B).await;
        assert_eq!(listed(w, B).await, before);
        assert!(has_entry(w));
        let e = asks(w, B, ada(), confirm(id)).await.unwrap_err();
        assert_eq!(e.code, ReturnCode::AccessDenied, "{e}");
        assert_eq!(asks(w, B, bob(), confirm(id)).await, Ok(Answer::Done));
        assert!(!has_entry(w));
    });
}

#[test]
fn requests_end_whatever_the_clocks_say_and_are_not_carried_out() {
    simulate(10, async |w| {
        four_eyes(w, &[B]).await;
        // Set ahead.
        let id = waits(w, B, ada(), remove_entry()).await;
        w.set_clock(B, 40 * DAY_MS);
        let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
        assert_eq!(e.code, ReturnCode::InvalidState, "{e}");
        w.run(30).await;
        assert_eq!(listed(w, B).await, []);
        assert_eq!(events(w, B, &format!("request {id} has ended")), [Some(ada())]);
        // Set back: the counter of the host goes on.
        let id = waits(w, B, ada(), remove_entry()).await;
        w.set_clock(B, -40 * DAY_MS);
        w.run(30).await;
        assert_eq!(listed(w, B).await.len(), 1);
        w.pause(u64::try_from(LASTS.as_millis()).unwrap()).await;
        w.run(30).await;
        assert_eq!(events(w, B, &format!("request {id} has ended")), [Some(ada())]);
        // Set back across a start of the host: nothing says how long it was.
        w.set_clock(B, 0);
        let id = waits(w, B, ada(), remove_entry()).await;
        w.set_clock(B, -DAY_MS);
        w.reboot(B).await;
        let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
        assert!(
            matches!(e.code, ReturnCode::InvalidState | ReturnCode::FileNotFound),
            "{e}"
        );
        assert!(has_entry(w) && listed(w, B).await.is_empty());
    });
}

#[test]
fn a_confirmation_whose_caller_left_is_carried_out_or_still_waits() {
    simulate(11, async |w| {
        four_eyes(w, &[B]).await;
        let id = waits(w, B, ada(), remove_entry()).await;
        w.shared.state().delay_ms = 200;
        let asked = asks(w, B, bob(), confirm(id));
        // Somewhere in the middle; virtual time says where.
        let left = tokio::time::timeout(Duration::from_millis(300), asked).await;
        w.shared.state().delay_ms = 0;
        w.run(20).await;
        let done = !has_entry(w);
        match left {
            Ok(answer) => assert!(answer == Ok(Answer::Done) && done),
            // Either it was never confirmed, or it is done.
            Err(_) => assert_eq!(listed(w, B).await.is_empty(), done),
        }
    });
}

/// Where a request is found after whatever happened while it was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Waits,
    Done,
    NotKnown,
}

/// One fault at the n-th call of a port while a request is confirmed; `None`: there are not so many calls.
fn one_fault(n: u64, fault: Fault) -> Option<Found> {
    simulate(20 + n, async |w| {
        four_eyes(w, &[B]).await;
        let id = waits(w, B, ada(), remove_entry()).await;
        w.gate(B).arm(n, fault);
        let answer = w.act_by(B, Some(bob()), confirm(id)).await;
        w.gate(B).disarm()?;
        // The time after which whatever goes on by itself has gone on.
        w.run(120).await;
        let state = async || listed(w, B).await.first().map(|r| r.state.clone());
        if let Some(RequestStage::Confirmed { .. }) = state().await {
            // Carried out, and that could not be recorded as far as the daemon knows. A start says what is recorded.
            w.restart(B).await;
        }
        let there = has_entry(w);
        let found = match state().await {
            None => Found::Done,
            Some(RequestStage::Waits) => Found::Waits,
            Some(RequestStage::NotKnown { .. }) => Found::NotKnown,
            Some(RequestStage::Confirmed { .. }) => panic!("a start leaves nothing half told"),
        };
        let context = format!("{n} {fault:?}: {answer:?} {found:?}\n{}", w.tail(40).join("\n"));
        match found {
            Found::Waits => {
                assert!(there, "{context}");
                assert_ne!(answer, Some(Ok(Answer::Done)), "{context}");
                w.insist(B, Action::ListRequests).await.unwrap();
                assert_eq!(
                    asks(w, B, bob(), confirm(id)).await,
                    Ok(Answer::Done),
                    "{context}"
                );
                assert!(!has_entry(w), "{context}");
            }
            // It says itself how it ended.
            Found::Done => {
                let refused = events(w, B, "was confirmed and refused").len();
                let done = events(w, B, "is carried out").len();
                assert_eq!(done + refused, 1, "{context}");
                assert!(done == 0 || !there, "{context}");
            }
            Found::NotKnown => {
                let both = Some(ada().confirmed_by(bob()));
                let told = events(w, B, "before it was known whether it was carried out");
                assert_eq!(told, [both], "{context}");
                // Never twice: it stays as it is, and nobody can confirm it again.
                for _ in 0..2 {
                    let e = asks(w, B, bob(), confirm(id)).await.unwrap_err();
                    assert_eq!(e.code, ReturnCode::InvalidState, "{context}");
                    w.restart(B).await;
                    w.run(60).await;
                    assert_eq!(has_entry(w), there, "{context}");
                }
                let told = events(w, B, "before it was known whether it was carried out");
                assert_eq!(told.len(), 1, "{context}");
                asks(w, B, ada(), deny(id)).await.unwrap();
            }
        }
        Some(found)
    })
}

#[test]
fn a_fault_at_any_step_of_a_confirmation_neither_repeats_nor_loses_it() {
    let mut seen = std::collections::BTreeSet::new();
    for fault in Fault::ALL {
        let mut n = 1;
        while let Some(found) = one_fault(n, fault) {
            seen.insert(found);
            n += 1;
            assert!(n < 60, "a confirmation has a handful of steps");
        }
        assert!(n > 3, "{fault:?} met nothing");
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [Found::Waits, Found::Done, Found::NotKnown]
    );
}
