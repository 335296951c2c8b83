//! What cannot be undone waits for a second person: who is one, what waits and what does not, and what restarts, crashes and
//! clocks do to requests.

use std::time::Duration;

use crate::common::{
    commit, eventually, failover, flows, job, mode, phase, planned, points, replicating, revert, simulate,
    state,
};
use lifeboat_engine::action::{Action, Answer, PointSelector, Refusal};
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::person::Account;
use lifeboat_engine::query::Query;
use lifeboat_engine::records::FailoverPhase;
use lifeboat_engine::requests::{IN_ALL, LASTS, OF_ONE, Request, RequestState};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    AuthorizationEntry, JobType, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State,
    RequestId,
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

/// These hosts want a second person from now on.
async fn four_eyes(w: &World, hosts: &[usize]) {
    for host in hosts {
        w.shared.state().hosts[*host].four_eyes = true;
        w.restart(*host).await;
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
    let command = format!("lifeboat request confirm {id}");
    assert!(refusal.hint.contains(&command), "{}", refusal.hint);
    id
}

fn confirm(request: RequestId) -> Action {
    Action::ConfirmRequest { request }
}

fn deny(request: RequestId) -> Action {
    Action::DenyRequest { request }
}

async fn listed(w: &World, host: usize) -> Vec<Request> {
    w.insist_on(host, Query::list_requests()).await.unwrap()
}

fn remove_entry() -> Action {
    Action::RemoveAuthorization { primary: "a".into() }
}

fn has_entry(w: &World) -> bool {
    let s = w.shared.state();
    s.hosts[1].catalog.entries.iter().any(|e| e.primary == "a")
}

fn events(w: &World, host: usize, words: &str) -> Vec<Option<By>> {
    let s = w.shared.state();
    let told = s.hosts[host].events.iter().filter(|e| e.message.contains(words));
    told.map(|e| e.by.clone()).collect()
}

async fn failed_over(w: &mut World) {
    replicating(w).await;
    for _ in 0..8 {
        w.write(10);
        w.run(10).await;
    }
    w.cut(true);
    w.run(5).await;
    job(w, 1, failover(PointSelector::Latest)).await.unwrap();
}

#[test]
fn a_commit_waits_for_another_person_and_names_both() {
    simulate(1, async |w| {
        four_eyes(w, &[0, 1]).await;
        // A failover does not wait, nor does a revert.
        failed_over(w).await;
        job(w, 1, revert()).await.unwrap();
        job(w, 1, failover(PointSelector::Latest)).await.unwrap();
        let before = points(w).await;
        let id = waits(w, 1, ada(), commit()).await;
        w.run(60).await;
        assert_eq!((state(w, 1), points(w).await), (State::Recovered, before));
        // Neither she herself, however she comes, nor somebody who may be she.
        for by in [ada(), user("ada"), user("Ada"), By::process(0, None)] {
            let e = asks(w, 1, by, confirm(id)).await.unwrap_err();
            assert_eq!((e.code, e.request), (ReturnCode::AccessDenied, None), "{e}");
        }
        let e = w.act_by(1, None, confirm(id)).await.unwrap().unwrap_err();
        assert_eq!(e.code, ReturnCode::AccessDenied, "{e}");
        assert_eq!(state(w, 1), State::Recovered);
        let request = listed(w, 1).await.remove(0);
        assert_eq!((request.id, request.vm, &request.by), (id, Some(VM), &ada()));
        let Ok(Answer::Job(job)) = asks(w, 1, bob(), confirm(id)).await else {
            panic!("it is carried out by a job")
        };
        let both = ada().confirmed_by(bob());
        assert_eq!((job.kind, job.by), (JobType::CommitFailover, Some(both.clone())));
        eventually(w, "the commit", |w| phase(w) == Some(FailoverPhase::Done)).await;
        assert_eq!(events(w, 1, "failover is being committed"), [Some(both.clone())]);
        assert_eq!(events(w, 1, "is being carried out by job"), [Some(both.clone())]);
        assert_eq!(both.names(), "root for ada, confirmed by root for bob");
        assert_eq!(listed(w, 1).await, []);
        // It is used up.
        let e = asks(w, 1, bob(), confirm(id)).await.unwrap_err();
        assert_eq!(e.code, ReturnCode::FileNotFound, "{e}");
    });
}

#[test]
fn without_the_switch_nothing_waits() {
    simulate(2, async |w| {
        assert_eq!(asks(w, 1, ada(), remove_entry()).await, Ok(Answer::Done));
        assert!(!has_entry(w) && listed(w, 1).await.is_empty());
    });
}

fn changed(w: &World, change: fn(&mut ReplicationSettings)) -> Action {
    let mut settings = w.recorded(0).unwrap().settings;
    change(&mut settings);
    Action::ModifyReplication {
        vm: World::vm(),
        settings,
    }
}

#[test]
fn less_history_and_every_removal_wait_and_the_rest_does_not() {
    simulate(3, async |w| {
        four_eyes(w, &[0, 1]).await;
        replicating(w).await;
        let more = changed(w, |s| (s.history, s.any_point_window_s) = (9, 900));
        assert_eq!(asks(w, 0, ada(), more).await, Ok(Answer::Done));
        let settings = w.recorded(0).unwrap().settings;
        let less: [fn(&mut ReplicationSettings); 4] = [
            |s| s.history = 8,
            |s| s.any_point_window_s = 899,
            |s| s.point_spacing_s = 29,
            |s| drop(s.disks.pop()),
        ];
        for less in less {
            waits(w, 0, ada(), changed(w, less)).await;
        }
        let vm = World::vm;
        for removal in [
            Action::RemoveReplication { vm: vm() },
            Action::ForgetReplication { vm: vm() },
            Action::RemoveExtended { vm: vm() },
            Action::DropAbandoned { vm: vm() },
        ] {
            waits(w, 0, ada(), removal.clone()).await;
            waits(w, 1, ada(), removal).await;
        }
        waits(w, 1, ada(), remove_entry()).await;
        w.run(30).await;
        assert_eq!(w.recorded(0).unwrap().settings, settings);
        assert!(has_entry(w) && flows(w, 0, 1));
        // What a request names is this VM, not whoever has its name by then.
        let exact = VM.to_string();
        for request in listed(w, 0).await.into_iter().chain(listed(w, 1).await) {
            assert!(
                request.action.vm().is_none_or(|vm| vm.to_string() == exact),
                "{request:?}"
            );
        }
        // What is refused without it is refused at once.
        let none = Action::RemoveAuthorization { primary: "x".into() };
        let e = asks(w, 1, ada(), none).await.unwrap_err();
        assert_eq!((e.code, e.request), (ReturnCode::FileNotFound, None));
        // Everything that keeps replication going.
        for action in [
            Action::SuspendReplication { vm: vm() },
            Action::ResumeReplication { vm: vm() },
            Action::ReplicateNow { vm: vm() },
        ] {
            asks(w, 0, ada(), action).await.unwrap();
        }
        // A whole planned failover, which commits by itself.
        job(w, 0, planned(true)).await.unwrap();
        eventually(w, "the other direction", |w| flows(w, 1, 0)).await;
    });
}

#[test]
fn what_an_entry_promises_is_not_lowered_by_one() {
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
        four_eyes(w, &[1]).await;
        for action in [
            add("a", 100),
            add("long.example.org", 900),
            bind("long.example.org"),
        ] {
            assert_eq!(asks(w, 1, ada(), action).await, Ok(Answer::Done));
        }
        waits(w, 1, ada(), add("A", 99)).await;
        // The other entry does not cover the primary: it counts as long as the replica is bound to it.
        let id = waits(w, 1, ada(), bind("a")).await;
        assert_eq!(asks(w, 1, ada(), add("a", 900)).await, Ok(Answer::Done));
        assert_eq!(asks(w, 1, bob(), confirm(id)).await, Ok(Answer::Done));
        let bound = w.recorded(1).unwrap();
        assert_eq!(bound.replica().unwrap().allowed.as_deref(), Some("a"));
    });
}

#[test]
fn calls_of_other_hosts_do_not_wait() {
    simulate(5, async |w| {
        replicating(w).await;
        four_eyes(w, &[1]).await;
        let less = changed(w, |s| s.history = 1);
        w.insist(0, less).await.unwrap();
        assert_eq!(w.recorded(1).unwrap().settings.history, 1);
        // Asked for on the host that does not want a second person; the other one commits by the primary's word.
        job(w, 0, planned(true)).await.unwrap();
        eventually(w, "the other direction", |w| flows(w, 1, 0)).await;
        assert_eq!(listed(w, 1).await, []);
    });
}

#[test]
fn what_is_confirmed_is_judged_by_the_state_of_then() {
    simulate(6, async |w| {
        four_eyes(w, &[1]).await;
        failed_over(w).await;
        let id = waits(w, 1, ada(), commit()).await;
        job(w, 1, revert()).await.unwrap();
        let before = points(w).await;
        let e = asks(w, 1, bob(), confirm(id)).await.unwrap_err();
        assert_eq!((e.code, e.request), (ReturnCode::InvalidState, None), "{e}");
        assert_eq!((mode(w, 1), points(w).await), (Mode::Replica, before));
        assert_eq!(
            events(w, 1, "was confirmed and refused"),
            [Some(ada().confirmed_by(bob()))]
        );
        assert_eq!(listed(w, 1).await, []);
    });
}

#[test]
fn a_request_is_denied_by_anybody_and_nothing_comes_of_it() {
    simulate(7, async |w| {
        four_eyes(w, &[1]).await;
        for by in [bob(), ada()] {
            let id = waits(w, 1, ada(), remove_entry()).await;
            assert_eq!(asks(w, 1, by.clone(), deny(id)).await, Ok(Answer::Done));
            assert_eq!(events(w, 1, &format!("request {id} is denied")), [Some(by)]);
            let e = asks(w, 1, bob(), confirm(id)).await.unwrap_err();
            assert_eq!(e.code, ReturnCode::FileNotFound);
        }
        assert!(has_entry(w));
    });
}

#[test]
fn equal_requests_are_one_and_there_are_not_too_many() {
    simulate(8, async |w| {
        four_eyes(w, &[1]).await;
        let primary = |n: usize| format!("p{n}.example.org");
        for n in 0..=IN_ALL {
            let entry = AuthorizationEntry {
                primary: primary(n),
                storage_location: "/replicas".into(),
                trust_group: "t".into(),
                allow_start: false,
                keep_at_least_s: 0,
                locked_until: None,
                quota: Default::default(),
            };
            let add = Action::AddAuthorization { entry };
            assert_eq!(asks(w, 1, ada(), add).await, Ok(Answer::Done));
        }
        let remove = |n: usize| Action::RemoveAuthorization { primary: primary(n) };
        let first = waits(w, 1, ada(), remove(0)).await;
        assert_eq!(waits(w, 1, user("ada"), remove(0)).await, first);
        // Another person is told whose it is, and may confirm it.
        let e = asks(w, 1, bob(), remove(0)).await.unwrap_err();
        assert!(e.request == Some(first) && e.message.contains("ada"), "{e}");
        for n in 1..OF_ONE {
            waits(w, 1, ada(), remove(n)).await;
        }
        let full = |e: Refusal| assert_eq!((e.code, e.request), (ReturnCode::InUse, None), "{e}");
        full(asks(w, 1, ada(), remove(OF_ONE)).await.unwrap_err());
        for n in OF_ONE..IN_ALL {
            waits(w, 1, user(&format!("user{}", n / OF_ONE)), remove(n)).await;
        }
        full(asks(w, 1, user("late"), remove(IN_ALL)).await.unwrap_err());
        // No name, no request.
        let e = w.act_by(1, None, remove(IN_ALL)).await.unwrap().unwrap_err();
        assert_eq!((e.code, e.request), (ReturnCode::AccessDenied, None));
        assert_eq!(listed(w, 1).await.len(), IN_ALL);
        asks(w, 1, bob(), deny(first)).await.unwrap();
        waits(w, 1, user("late"), remove(IN_ALL)).await;
    });
}

#[test]
fn a_request_outlives_the_daemon_and_the_switch() {
    simulate(9, async |w| {
        four_eyes(w, &[1]).await;
        let id = waits(w, 1, ada(), remove_entry()).await;
        let before = listed(w, 1).await;
        w.restart(1).await;
        w.reboot(1).await;
        w.shared.state().hosts[1].four_eyes = false;
        w.restart(1).await;
        assert_eq!(listed(w, 1).await, before);
        assert!(has_entry(w));
        let e = asks(w, 1, ada(), confirm(id)).await.unwrap_err();
        assert_eq!(e.code, ReturnCode::AccessDenied, "{e}");
        assert_eq!(asks(w, 1, bob(), confirm(id)).await, Ok(Answer::Done));
        assert!(!has_entry(w));
    });
}

#[test]
fn clocks_end_requests_and_carry_nothing_out() {
    simulate(10, async |w| {
        four_eyes(w, &[1]).await;
        // Set ahead.
        let id = waits(w, 1, ada(), remove_entry()).await;
        w.set_clock(1, 40 * DAY_MS);
        let e = asks(w, 1, bob(), confirm(id)).await.unwrap_err();
        assert_eq!(e.code, ReturnCode::InvalidState, "{e}");
        w.run(30).await;
        assert_eq!(listed(w, 1).await, []);
        assert_eq!(events(w, 1, &format!("request {id} has ended")), [Some(ada())]);
        // Set back: the counter of the host goes on.
        let id = waits(w, 1, ada(), remove_entry()).await;
        w.set_clock(1, -40 * DAY_MS);
        w.run(30).await;
        assert_eq!(listed(w, 1).await.len(), 1);
        w.pause(u64::try_from(LASTS.as_millis()).unwrap()).await;
        w.run(30).await;
        assert_eq!(events(w, 1, &format!("request {id} has ended")), [Some(ada())]);
        // Set back across a start of the host: nothing says how long it was.
        w.set_clock(1, 0);
        let id = waits(w, 1, ada(), remove_entry()).await;
        w.set_clock(1, -DAY_MS);
        w.reboot(1).await;
        let e = asks(w, 1, bob(), confirm(id)).await.unwrap_err();
        assert!(
            matches!(e.code, ReturnCode::InvalidState | ReturnCode::FileNotFound),
            "{e}"
        );
        assert!(has_entry(w) && listed(w, 1).await.is_empty());
    });
}

#[test]
fn whoever_confirms_may_leave() {
    simulate(11, async |w| {
        four_eyes(w, &[1]).await;
        let id = waits(w, 1, ada(), remove_entry()).await;
        w.shared.state().delay_ms = 200;
        let asked = asks(w, 1, bob(), confirm(id));
        // Somewhere in the middle; virtual time says where.
        let left = tokio::time::timeout(Duration::from_millis(300), asked).await;
        w.shared.state().delay_ms = 0;
        w.run(20).await;
        let done = !has_entry(w);
        match left {
            Ok(answer) => assert!(answer == Ok(Answer::Done) && done),
            // Either it was never confirmed, or it is done.
            Err(_) => assert_eq!(listed(w, 1).await.is_empty(), done),
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
        four_eyes(w, &[1]).await;
        let id = waits(w, 1, ada(), remove_entry()).await;
        w.gate(1).arm(n, fault);
        let answer = w.act_by(1, Some(bob()), confirm(id)).await;
        w.gate(1).disarm()?;
        // The time after which whatever goes on by itself has gone on.
        w.run(120).await;
        let state = async || listed(w, 1).await.first().map(|r| r.state.clone());
        if let Some(RequestState::Confirmed { .. }) = state().await {
            // Carried out, and that could not be recorded as far as the daemon knows. A start says what is recorded.
            w.restart(1).await;
        }
        let there = has_entry(w);
        let found = match state().await {
            None => Found::Done,
            Some(RequestState::Waits) => Found::Waits,
            Some(RequestState::NotKnown { .. }) => Found::NotKnown,
            Some(RequestState::Confirmed { .. }) => panic!("a start leaves nothing half told"),
        };
        let context = format!("{n} {fault:?}: {answer:?} {found:?}\n{}", w.tail(40).join("\n"));
        match found {
            Found::Waits => {
                assert!(there, "{context}");
                assert_ne!(answer, Some(Ok(Answer::Done)), "{context}");
                w.insist(1, Action::ListRequests).await.unwrap();
                assert_eq!(
                    asks(w, 1, bob(), confirm(id)).await,
                    Ok(Answer::Done),
                    "{context}"
                );
                assert!(!has_entry(w), "{context}");
            }
            // It says itself how it ended.
            Found::Done => {
                let refused = events(w, 1, "was confirmed and refused").len();
                let done = events(w, 1, "is carried out").len();
                assert_eq!(done + refused, 1, "{context}");
                assert!(done == 0 || !there, "{context}");
            }
            Found::NotKnown => {
                let both = Some(ada().confirmed_by(bob()));
                let told = events(w, 1, "before it was known whether it was carried out");
                assert_eq!(told, [both], "{context}");
                // Never twice: it stays as it is, and nobody can confirm it again.
                for _ in 0..2 {
                    let e = asks(w, 1, bob(), confirm(id)).await.unwrap_err();
                    assert_eq!(e.code, ReturnCode::InvalidState, "{context}");
                    w.restart(1).await;
                    w.run(60).await;
                    assert_eq!(has_entry(w), there, "{context}");
                }
                let told = events(w, 1, "before it was known whether it was carried out");
                assert_eq!(told.len(), 1, "{context}");
                asks(w, 1, ada(), deny(id)).await.unwrap();
            }
        }
        Some(found)
    })
}

#[test]
fn a_fault_at_any_step_never_carries_out_twice_nor_loses_silently() {
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
