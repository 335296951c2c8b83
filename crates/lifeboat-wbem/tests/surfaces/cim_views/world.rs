//! Hosts of the simulated world under an object manager, and short ways to ask it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lifeboat_cim::{Instance, InstanceName, wql};
use lifeboat_engine::action::{Action, Answer, Management, PointSelector, Refusal, Watch};
use lifeboat_engine::by::By;
use lifeboat_model::{NicBackend, NicSpec, VmId};
use lifeboat_sim::harness::{PRIMARY, REPLICA, completed, simulate_small};
use lifeboat_sim::{VM, World};
use lifeboat_wbem::cim::{Cursor, Found, HostFacts, Machine, ObjectManager, Relations, VIRTUALIZATION};
use uuid::Uuid;

use crate::facts::facts;

/// The VM of the world, as this API writes it.
pub(crate) const GUID: &str = "6F3B2F2E-3A63-4A0E-9A53-0D9F5F6F0001";

/// Runs a scenario in a small world whose first host has four VMs; the one of the world has two cards.
pub(crate) fn simulate_several(seed: u64, hosts: &[&str], scenario: impl AsyncFnOnce(&mut World)) {
    simulate_small(seed, hosts, async |w| {
        {
            let mut s = w.shared.state();
            let first = s.hosts[PRIMARY].local[0].clone();
            let backend = NicBackend::Tap {
                ifname: "lan0".into(),
            };
            s.hosts[PRIMARY].local[0].nics = vec![
                nic("52:54:00:aa:00:01", backend),
                nic("52:54:00:aa:00:02", NicBackend::None),
            ];
            for n in 2..5_u128 {
                let mut other = first.clone();
                (other.name, other.uuid) = (format!("vm{n}"), VmId(Uuid::from_u128(VM.0.as_u128() + n)));
                for disk in &mut other.disks {
                    disk.path = format!("/vm/{n}-{}.qcow2", disk.id);
                }
                s.hosts[PRIMARY].local.push(other);
            }
        }
        w.restart(PRIMARY).await;
        scenario(w).await;
    });
}

pub(crate) fn nic(mac: &str, backend: NicBackend) -> NicSpec {
    NicSpec {
        mac: mac.into(),
        backend,
    }
}

/// A test VM, off.
pub(crate) async fn tested(w: &World) -> VmId {
    let test = Action::StartTest {
        vm: World::vm(),
        point: PointSelector::Latest,
        start: false,
    };
    completed(w, REPLICA, test).await;
    w.recorded(REPLICA)
        .unwrap()
        .replica()
        .unwrap()
        .test
        .clone()
        .unwrap()
        .vm
}

/// The management of a host, counting what it is asked.
pub(crate) struct Counting {
    inner: Arc<dyn Management>,
    asked: Mutex<BTreeMap<String, u32>>,
}

#[async_trait]
impl Management for Counting {
    async fn perform(&self, by: Option<By>, action: Action) -> Result<Answer, Refusal> {
        *self.asked.lock().unwrap().entry(action.name()).or_default() += 1;
        self.inner.perform(by, action).await
    }

    fn watch(&self) -> Watch {
        self.inner.watch()
    }
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn Management>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            asked: Mutex::default(),
        })
    }

    /// What was asked since the last time, and how often.
    pub(crate) fn take(&self) -> Vec<(String, u32)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
            .into_iter()
            .collect()
    }
}

pub(crate) fn managed(w: &World, host: usize) -> (Arc<ObjectManager>, Arc<Counting>) {
    let inner = w.engine(host).unwrap();
    let counting = Arc::new(Counting {
        inner,
        asked: Mutex::default(),
    });
    let facts = HostFacts {
        machine: Machine {
            cpus: 8,
            memory: 16 << 30,
            processor: "A processor".into(),
        },
        ..facts(w, host)
    };
    (
        ObjectManager::new(counting.clone(), facts, w.clock(host)),
        counting,
    )
}

pub(crate) fn manager(w: &World, host: usize) -> Arc<ObjectManager> {
    managed(w, host).0
}

pub(crate) async fn drain(mut cursor: Cursor) -> Vec<Instance> {
    let mut all = Vec::new();
    while let Some(Found { instance, .. }) = cursor.next().await.unwrap() {
        all.push(instance);
    }
    all
}

pub(crate) async fn all(m: &Arc<ObjectManager>, class: &str) -> Vec<Instance> {
    drain(m.enumerate(VIRTUALIZATION, class).await.unwrap()).await
}

pub(crate) async fn ask(m: &Arc<ObjectManager>, query: &str) -> Vec<Instance> {
    let query = wql::parse(query).unwrap();
    drain(m.query(VIRTUALIZATION, &query).await.unwrap()).await
}

pub(crate) fn from(source: InstanceName) -> Relations {
    Relations {
        source,
        association: None,
        result: None,
        role: None,
        result_role: None,
    }
}

pub(crate) fn system(name: &str) -> InstanceName {
    let keys = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", name)];
    InstanceName::new("Msvm_ComputerSystem", &keys)
}

pub(crate) fn by_id(class: &str, id: &str) -> InstanceName {
    InstanceName::new(class, &[("InstanceID", id)])
}

pub(crate) async fn vm(m: &Arc<ObjectManager>) -> Instance {
    m.get(VIRTUALIZATION, &system(GUID)).await.unwrap()
}

pub(crate) async fn related(
    m: &Arc<ObjectManager>,
    source: InstanceName,
    association: &str,
) -> Vec<Instance> {
    let relations = Relations {
        association: Some(association.into()),
        ..from(source)
    };
    drain(m.associators(VIRTUALIZATION, relations).await.unwrap()).await
}
