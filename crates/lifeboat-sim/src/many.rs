//! Worlds in which something replicates already, and hosts with very many VMs: where lists and enumerations are tested.

use std::collections::BTreeSet;

use lifeboat_engine::action::{Action, InitialCopy};
use lifeboat_model::{ReplicationState, VmId};
use uuid::Uuid;

use crate::{VM, World};

/// Names of the VMs of [`World::of_many`] with 10,000 VMs; ten are had by two.
const NAMES: usize = 9_990;

impl World {
    /// Replication from host 0 to host 1, with a few points.
    ///
    /// # Panics
    /// The initial copy is refused or does not end.
    pub async fn replicate(&mut self) {
        let (vm, settings) = (Self::vm(), Self::settings());
        self.insist(0, Action::EnableReplication { vm, settings })
            .await
            .expect("it can be enabled");
        let start = Action::StartReplication {
            vm: Self::vm(),
            how: InitialCopy::Network,
            at: None,
        };
        self.insist(0, start).await.expect("it can be started");
        let replicates = |w: &Self, host| {
            let recorded = w.recorded(host);
            recorded.is_some_and(|r| r.state == ReplicationState::Replicating)
        };
        for _ in 0..30 {
            self.write(5);
            self.run(1).await;
            if replicates(self, 0) && replicates(self, 1) {
                for _ in 0..8 {
                    self.write(5);
                    self.run(10).await;
                }
                return;
            }
        }
        panic!("the initial copy does not end: {:?}", self.recorded(0));
    }

    /// Host `a` has `n` VMs with two disks each; `b` has `n` replicas with recovery points.
    ///
    /// # Panics
    /// As [`World::replicate`].
    pub async fn of_many(n: usize) -> Self {
        let mut w = World::with(60, &["a", "b"], 24 << 20).await;
        w.replicate().await;
        let template = w.recorded(1).expect("it replicates");
        w.stop(0).await;
        w.stop(1).await;
        {
            let mut s = w.shared.state();
            let (vm, replica) = (s.hosts[0].local[0].clone(), s.hosts[1].replicas[&VM].clone());
            for n in 1..n {
                let uuid = VmId(Uuid::from_u128(VM.0.as_u128() + 1 + n as u128));
                let mut other = vm.clone();
                // Names in another order than UUIDs, and some that several VMs have.
                (other.name, other.uuid) = (format!("vm-{}", n * 7919 % NAMES), uuid);
                for disk in &mut other.disks {
                    disk.path = format!("/vm/{n}-{}.qcow2", disk.id);
                }
                let mut copy = template.clone();
                (copy.vm, copy.spec.uuid, copy.spec.name) = (uuid, uuid, other.name.clone());
                s.hosts[0].local.push(other);
                s.hosts[1].catalog.relationships.push(copy);
                s.hosts[1].replicas.insert(uuid, replica.clone());
            }
        }
        w.boot(0).await;
        w.boot(1).await;
        w
    }

    /// The VMs of a host by the world's own record: those of host 0, the replicas of any other.
    #[must_use]
    pub fn uuids(&self, host: usize) -> BTreeSet<VmId> {
        let s = self.shared.state();
        match host {
            0 => s.hosts[0].local.iter().map(|vm| vm.uuid).collect(),
            host => s.hosts[host].replicas.keys().copied().collect(),
        }
    }
}
