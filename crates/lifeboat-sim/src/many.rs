//! Worlds in which something replicates already, and hosts with very many VMs: where lists and enumerations are tested.

use std::collections::BTreeSet;

use lifeboat_model::VmId;
use uuid::Uuid;

use crate::harness::{A, B, SMALL_BYTES, TWO_HOSTS, replicating};
use crate::{VM, World};

/// Names of the VMs of [`World::of_many`] with 10,000 VMs; ten are had by two.
const NAMES: usize = 9_990;

impl World {
    /// Replication from host `a` to host `b`, with a few points.
    ///
    /// # Panics
    /// The initial copy is refused or does not end.
    pub async fn replicate(&mut self) {
        replicating(self).await;
        for _ in 0..8 {
            self.write(5);
            self.run(10).await;
        }
    }

    /// Host `a` has `n` VMs with two disks each; `b` has `n` replicas with recovery points.
    ///
    /// # Panics
    /// As [`World::replicate`].
    pub async fn of_many(n: usize) -> Self {
        let mut w = World::with(60, TWO_HOSTS, SMALL_BYTES).await;
        w.replicate().await;
        let template = w.recorded(B).expect("it replicates");
        w.stop(A).await;
        w.stop(B).await;
        {
            let mut s = w.shared.state();
            let (vm, replica) = (s.hosts[A].local[0].clone(), s.hosts[B].replicas[&VM].clone());
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
                s.hosts[A].local.push(other);
                s.hosts[B].catalog.relationships.push(copy);
                s.hosts[B].replicas.insert(uuid, replica.clone());
            }
        }
        w.boot(A).await;
        w.boot(B).await;
        w
    }

    /// The VMs of a host by the world's own record: those of host `a`, the replicas of any other.
    #[must_use]
    pub fn uuids(&self, host: usize) -> BTreeSet<VmId> {
        let s = self.shared.state();
        match host {
            A => s.hosts[A].local.iter().map(|vm| vm.uuid).collect(),
            host => s.hosts[host].replicas.keys().copied().collect(),
        }
    }
}
