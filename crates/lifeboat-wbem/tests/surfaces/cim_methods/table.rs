//! What is played for the conformance table, as data: each situation with the answer it must get, and the reasons why the
//! other cells are empty.

use lifeboat_cim::{InstanceName, Raw, Schema};
use lifeboat_model::VmId;
use lifeboat_sim::harness::{A, B, C};
use lifeboat_sim::{Fault, World};
use lifeboat_wbem::cim::Role;
use lifeboat_wbem::cim::VIRTUALIZATION;
use lifeboat_wbem::cim::methods::{Entry, METHODS, Numbers};
use uuid::Uuid;

use crate::cim_methods::world::*;

mod others;
mod reasons;
mod replication;

pub use reasons::REASONS;

/// How far a VM's life has come. `a` has the VM, `b` the replica, `c` the copy of the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is replicated; the VM runs.
    Fresh,
    /// Nothing is replicated, and `b` no longer takes replicas of `a`.
    Unauthorized,
    /// The relationship is made; states 1 and 2.
    Related,
    /// The initial copy has been started a moment ago.
    Copying,
    /// The initial copy waits for its time.
    Scheduled,
    /// The initial copy is on a medium.
    Exported,
    /// Cycles flow.
    Replicating,
    /// The same with the VM shut down.
    Off,
    /// A planned failover is being prepared, and the hosts do not reach each other.
    Preparing,
    /// Prepared for a planned failover; state 4.
    Prepared,
    /// Suspended on the primary.
    Suspended,
    /// A comparison has been started a moment ago.
    Comparing,
    /// Failed over; state 5.
    FailedOver,
    /// Failed over and committed; state 6.
    Committed,
    /// A test VM is there.
    Testing,
    /// Cycles flow, and `b` has another VM that is named like a test of this one.
    Namesake,
    /// Cycles flowed until `a` alone let go.
    LetGo,
    /// Cycles flow, and there is a third host.
    ThreeHosts,
    /// The relationship to the third host is made.
    Third,
    /// What arrives on `b` goes on to `c`.
    Extended,
    /// The same, and `b` has failed over and committed.
    ExtendedCommitted,
    /// `b` has been told to go on as the primary of `c`, which it does not reach.
    Turning,
}

impl Stage {
    pub fn needs_a_third_host(self) -> bool {
        matches!(
            self,
            Self::ThreeHosts | Self::Third | Self::Extended | Self::ExtendedCommitted | Self::Turning
        )
    }

    /// Plays the VM's life up to here, through the API alone.
    pub async fn reach(self, w: &World) {
        let before = match self {
            Self::Fresh => return,
            Self::Related | Self::Unauthorized => Self::Fresh,
            Self::Copying | Self::Scheduled | Self::Exported | Self::Replicating => Self::Related,
            Self::Off
            | Self::Suspended
            | Self::FailedOver
            | Self::Testing
            | Self::Namesake
            | Self::LetGo
            | Self::ThreeHosts => Self::Replicating,
            Self::Third => Self::ThreeHosts,
            Self::Prepared | Self::Preparing => Self::Off,
            Self::Comparing => Self::Suspended,
            Self::Committed => Self::FailedOver,
            Self::Extended => Self::Third,
            Self::ExtendedCommitted => Self::Extended,
            Self::Turning => Self::ExtendedCommitted,
        };
        Box::pin(before.reach(w)).await;
        self.go_on(w).await;
    }

    async fn go_on(self, w: &World) {
        match self {
            Self::Fresh | Self::ThreeHosts => {}
            Self::Turning => {
                cut(w);
                let args = vec![vm(), relationship(1)];
                assert_eq!(
                    ask(w, B, "ChangeReplicationModeToPrimary", args).await.value,
                    4096
                );
            }
            Self::Unauthorized => {
                let primary = vec![text("AllowedPrimaryHostSystem", "a")];
                done(w, B, "RemoveAuthorizationEntry", primary).await;
            }
            Self::Namesake => {
                {
                    let mut s = w.shared.state();
                    let mut other = s.hosts[A].local[0].clone();
                    (other.name, other.uuid) = ("web - Test".into(), VmId(Uuid::from_u128(5)));
                    s.hosts[B].local.push(other);
                }
                w.restart(B).await;
                until(w, B, (2, 3)).await;
            }
            Self::LetGo => drop(done(w, A, "RemoveReplicationRelationship", vec![vm()]).await),
            Self::Related => drop(done(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await),
            Self::Copying => drop(ask(w, A, "StartReplication", copy("1")).await),
            Self::Scheduled => drop(ask(w, A, "StartReplication", copy_at(w, 3600)).await),
            Self::Exported => drop(complete(w, A, "StartReplication", export()).await),
            Self::Replicating => {
                complete(w, A, "StartReplication", copy("1")).await;
                until(w, B, (2, 3)).await;
            }
            Self::Off => {
                w.guest_off(A);
                w.run(40).await;
            }
            Self::Prepared => {
                let outcome = ask_state(w, A, "4").await;
                assert_eq!(ended(w, A, &outcome).await, 7);
            }
            Self::Preparing => {
                cut(w);
                assert_eq!(ask_state(w, A, "4").await.value, 4096);
            }
            Self::Suspended => assert_eq!(ask_state(w, A, "7").await.value, 0),
            Self::Comparing => drop(ask(w, A, "Resynchronize", vec![vm()]).await),
            Self::FailedOver => drop(complete(w, B, "InitiateFailover", vec![vm()]).await),
            Self::Committed | Self::ExtendedCommitted => {
                if self == Self::ExtendedCommitted {
                    complete(w, B, "InitiateFailover", vec![vm()]).await;
                }
                complete(w, B, "CommitFailover", vec![vm()]).await;
            }
            Self::Testing => drop(complete(w, B, "TestReplicaSystem", vec![vm()]).await),
            Self::Third => drop(done(w, B, "CreateReplicationRelationship", vec![vm(), third()]).await),
            Self::Extended => {
                complete(w, B, "StartReplication", copy("1")).await;
                until(w, C, (4, 3)).await;
            }
        }
    }
}

/// One call and what it must come to.
#[derive(Clone, Copy)]
pub struct Situation {
    pub class: &'static str,
    pub method: &'static str,
    /// The value it must return.
    pub code: u32,
    /// The situation in words.
    pub words: &'static str,
    pub stage: Stage,
    /// Which host is called.
    pub host: usize,
    pub role: Role,
    /// What goes wrong just before the call.
    pub spoil: fn(&World),
    pub target: fn(&World) -> InstanceName,
    pub args: fn(&World) -> Args,
}

impl Situation {
    const fn spoilt(mut self, spoil: fn(&World)) -> Self {
        self.spoil = spoil;
        self
    }

    const fn by(mut self, role: Role) -> Self {
        self.role = role;
        self
    }
}

/// A situation of a method of the replication service.
const fn at(
    method: &'static str,
    code: u32,
    words: &'static str,
    (stage, host): (Stage, usize),
    args: fn(&World) -> Args,
) -> Situation {
    Situation {
        class: "Msvm_ReplicationService",
        method,
        code,
        words,
        stage,
        host,
        role: Role::Administrator,
        spoil: |_| {},
        target: |_| replication_service(),
        args,
    }
}

/// The catalog of every host cannot be written.
fn catalogs_full(w: &World) {
    w.shared
        .state()
        .hosts
        .iter_mut()
        .for_each(|h| h.catalog_full = true);
}

/// The hosts do not reach each other.
fn cut(w: &World) {
    for (one, other) in [(A, B), (B, C), (A, C)] {
        if other < w.hosts() {
            w.cut_between(one, other, true);
        }
    }
}

fn test_vm(w: &World) -> String {
    let rel = w.recorded(B).unwrap();
    let test = rel.replica().unwrap().test.clone();
    test.unwrap().vm.to_string().to_uppercase()
}

fn just_vm(_: &World) -> Args {
    vec![vm()]
}

fn copy(kind: &str) -> Args {
    vec![vm(), text("InitialReplicationType", kind)]
}

fn export() -> Args {
    export_to("/media/usb")
}

fn export_to(location: &str) -> Args {
    let mut args = copy("2");
    args.push(text("InitialReplicationExportLocation", location));
    args
}

/// An instant so many seconds from now.
fn instant(w: &World, seconds: u64) -> String {
    let micros = (w.shared.now().0 / 1000 + seconds) * 1_000_000;
    lifeboat_cim::DateTime::Instant(i64::try_from(micros).unwrap()).to_string()
}

fn copy_at(w: &World, seconds: u64) -> Args {
    let mut args = copy("1");
    args.push(text("StartTime", &instant(w, seconds)));
    args
}

fn third() -> (String, Raw) {
    settings(&[
        ("RecoveryConnectionPoint", "string", "c"),
        ("RecoveryServerPortNumber", "uint16", "7000"),
    ])
}

fn kerberos() -> (String, Raw) {
    settings(&[
        ("RecoveryConnectionPoint", "string", "b"),
        ("RecoveryServerPortNumber", "uint16", "7000"),
        ("AuthenticationType", "uint16", "1"),
    ])
}

/// Methods that name the VM in a parameter, and that parameter. Those that are not served look at nothing.
pub fn about_a_vm() -> Vec<(&'static str, &'static Entry, &'static str)> {
    let space = Schema::builtin().namespace(VIRTUALIZATION).unwrap();
    let mut all = Vec::new();
    for (class, entries) in METHODS {
        let declared = space.class(class).unwrap();
        for entry in *entries {
            let parameters = &declared.method(entry.method).unwrap().parameters;
            let named = ["ComputerSystem", "AffectedSystem"];
            let found = named
                .into_iter()
                .find(|n| parameters.iter().any(|p| p.name == *n));
            all.extend(found.map(|parameter| (*class, entry, parameter)));
        }
    }
    all
}

fn target_of(class: &str) -> fn(&World) -> InstanceName {
    match class {
        "Msvm_ReplicationService" => |_| replication_service(),
        "Msvm_VirtualSystemManagementService" => |_| service("Msvm_VirtualSystemManagementService"),
        "Msvm_VirtualSystemSnapshotService" => |_| service("Msvm_VirtualSystemSnapshotService"),
        "Msvm_ComputerSystem" => |_| system(&guid()).name,
        "Msvm_ShutdownComponent" => others::component,
        "Msvm_ConcreteJob" => others::job,
        other => panic!("{other} has no instance in this test"),
    }
}

/// What holds for every method that names a VM.
fn every_vm() -> Vec<Situation> {
    type Case = (u32, &'static str, fn(&World) -> Args, fn(&World) -> Args);
    let cases: [Case; 3] = [
        (32773, "the VM is null", |_| Vec::new(), |_| Vec::new()),
        (
            32776,
            "the reference is to something that is no VM",
            |_| vec![arg("ComputerSystem", others::settings_of_vm())],
            |_| vec![arg("AffectedSystem", others::settings_of_vm())],
        ),
        (
            32779,
            "no VM of this host has this GUID",
            |_| vec![arg("ComputerSystem", others::nobody())],
            |_| vec![arg("AffectedSystem", others::nobody())],
        ),
    ];
    let mut all = Vec::new();
    for (class, entry, parameter) in about_a_vm() {
        for (code, words, computer, affected) in cases {
            let code = match (code, entry.numbers) {
                (32779, Numbers::NoFileNotFound) => 32773,
                (code, _) => code,
            };
            let args = if parameter == "ComputerSystem" {
                computer
            } else {
                affected
            };
            all.push(Situation {
                class,
                target: target_of(class),
                ..at(entry.method, code, words, (Stage::Fresh, A), args)
            });
        }
    }
    all
}

/// What holds for every method that not everybody may call.
fn every_role() -> Vec<Situation> {
    let mut all = Vec::new();
    for (class, entries) in METHODS {
        for entry in *entries {
            let (role, words) = match entry.role {
                Role::Monitor => continue,
                Role::Tester => (Role::Monitor, "a monitor calls it"),
                Role::Operator => (Role::Tester, "a tester calls it"),
                Role::Administrator => (Role::Operator, "an operator calls it; it is for administrators"),
            };
            let stage = if *class == "Msvm_ConcreteJob" {
                Stage::Scheduled
            } else {
                Stage::Fresh
            };
            let situation = Situation {
                class,
                target: target_of(class),
                ..at(entry.method, 32769, words, (stage, 0), |_| Vec::new())
            };
            all.push(situation.by(role));
        }
    }
    all
}

/// Everything that is played.
pub fn situations() -> Vec<Situation> {
    let mut all = every_vm();
    all.extend(every_role());
    let tables = [
        replication::LIFECYCLE,
        replication::FAILOVER,
        replication::MONITORING,
        replication::HOST,
        others::SYSTEM,
    ];
    all.extend(tables.into_iter().flatten());
    all.extend(others::jobs());
    all.extend(others::services());
    all
}
