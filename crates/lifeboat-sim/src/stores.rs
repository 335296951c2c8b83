//! The stores of a simulated host: which one a location belongs to, and what holds of every call. It checks the engine's side of the
//! contract: a call comes to the store that the VM's replica is in, and changing calls for a VM come one at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use camino::Utf8Path;
use futures_util::StreamExt;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::store::{Store, StoreError, StoreLocation, Stores};
use lifeboat_model::{Position, VmId};

use crate::port::Port;
use crate::replica::Result;
use crate::state::{Replica, Shared, State};

/// One store of a host. All stores of a host share what they hold; each is called for its own replicas alone.
#[derive(Clone)]
pub(crate) struct SimStore {
    pub(crate) port: Port,
    /// Location that the store has to itself; `None`: the store of all others.
    root: Option<String>,
}

/// The store that a place belongs to, by the locations that have one to themselves.
fn root_of(stores: &BTreeSet<String>, place: &str) -> Option<String> {
    let below = |root: &&String| Utf8Path::new(place).starts_with(root.as_str());
    stores.iter().find(below).cloned()
}

impl Port {
    fn store(&self, root: Option<String>) -> Store {
        Store::of_both(Arc::new(SimStore {
            port: self.clone(),
            root,
        }))
    }
}

impl Stores for Port {
    fn at(&self, location: &StoreLocation) -> Store {
        let root = root_of(&self.shared.state().hosts[self.host].stores, location.as_str());
        self.store(root)
    }

    fn all(&self) -> Vec<Store> {
        let own = self.shared.state().hosts[self.host].stores.clone();
        let own = own.into_iter().map(Some);
        own.chain([None]).map(|root| self.store(root)).collect()
    }
}

/// A changing call under way; ended when dropped.
pub(crate) struct Busy {
    shared: Arc<Shared>,
    host: usize,
    vm: VmId,
    name: &'static str,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut s = self.shared.state();
        let list = s.hosts[self.host].busy.entry(self.vm).or_default();
        if let Some(at) = list.iter().position(|n| *n == self.name) {
            list.remove(at);
        }
    }
}

pub(crate) fn here(s: &mut State, h: usize, vm: VmId) -> Result<&mut Replica> {
    match s.hosts[h].replicas.get_mut(&vm) {
        Some(r) if r.open => Ok(r),
        _ => Err(StoreError::NoReplica(vm)),
    }
}

pub(crate) fn room(s: &State, h: usize) -> Result<()> {
    if s.hosts[h].store_full {
        Err(StoreError::NoSpace("/replicas".into()))
    } else {
        Ok(())
    }
}

/// Whether the owner of a replica may store so many bytes of logs more.
pub(crate) fn share(s: &State, h: usize, vm: VmId, more: usize) -> Result<()> {
    let host = &s.hosts[h];
    let quota = host.quotas.get(&vm);
    let Some((owner, most)) = quota.and_then(|q| Some((&q.owner, q.bytes?))) else {
        return Ok(());
    };
    let of_owner = |vm: &VmId| host.quotas.get(vm).is_some_and(|q| q.owner == *owner);
    let logs = host.replicas.iter().filter(|(vm, _)| of_owner(vm));
    let taken: u64 = logs.flat_map(|(_, r)| &r.logs).map(|l| l.log.size).sum();
    if taken + more as u64 > most {
        Err(StoreError::OverQuota {
            owner: owner.clone(),
            most: format!("{most} bytes on disk for all replicas"),
        })
    } else {
        Ok(())
    }
}

pub(crate) fn logs_whole(s: &State, h: usize) -> Result<()> {
    if s.hosts[h].log_damaged {
        Err(StoreError::Damaged {
            path: "/replicas/logs/4.lbd".into(),
            detail: "the frame's checksum is wrong".into(),
        })
    } else {
        Ok(())
    }
}

fn incoming(name: &str) -> bool {
    name.starts_with("store.receive") || name.starts_with("store.bulk")
}

impl SimStore {
    /// A call about a VM has come here: it must be the store that the VM's replica is in.
    pub(crate) fn reached(&self, s: &mut State, vm: VmId, name: &str) {
        let host = &mut s.hosts[self.port.host];
        host.store_calls.insert((self.root.clone(), vm));
        let place = host.replicas.get(&vm).map(|r| r.dir.clone());
        let root = place.as_ref().map(|dir| root_of(&host.stores, dir));
        if root.is_some_and(|root| root != self.root) {
            s.violation(format!(
                "{name} of {vm}, which is in {place:?}, reached the store of {:?}",
                self.root
            ));
        }
    }

    /// A call about a VM whose effect is one step on the state.
    pub(crate) async fn run<R: Send>(
        &self,
        vm: VmId,
        name: &'static str,
        effect: impl FnOnce(&mut State, usize) -> Result<R> + Send,
    ) -> Result<R> {
        self.reached(&mut self.port.shared.state(), vm, name);
        self.port.run(name, effect).await
    }

    pub(crate) fn busy(&self, vm: VmId, name: &'static str) -> Busy {
        let mut s = self.port.shared.state();
        self.reached(&mut s, vm, name);
        let list = s.hosts[self.port.host].busy.entry(vm).or_default();
        list.push(name);
        let beside = [
            "store.apply",
            "store.seal",
            "store.expire_oldest",
            "store.expire_logs",
            "store.branch",
            "store.drop_branch",
        ];
        let clash = list[..list.len() - 1].iter().find(|other| {
            let fits = match (incoming(other), incoming(name)) {
                (true, true) => true,
                (true, false) => beside.contains(&name),
                (false, true) => beside.contains(other),
                (false, false) => false,
            };
            !fits
        });
        if let Some(other) = clash.copied() {
            s.violation(format!("{name} beside {other}"));
        }
        Busy {
            shared: self.port.shared.clone(),
            host: self.port.host,
            vm,
            name,
        }
    }

    /// A changing call.
    pub(crate) async fn change<R: Send>(
        &self,
        vm: VmId,
        name: &'static str,
        effect: impl FnOnce(&mut State, usize) -> Result<R> + Send,
    ) -> Result<R> {
        let _busy = self.busy(vm, name);
        self.run(vm, name, effect).await
    }

    /// Takes a body in, keeping what arrived for `part`.
    pub(crate) async fn body(
        &self,
        vm: VmId,
        part: Option<Position>,
        mut body: ByteStream,
    ) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| StoreError::Io {
                what: "the connection broke".into(),
                source,
            })?;
            tokio::task::yield_now().await;
            let mut s = self.port.shared.state();
            room(&s, self.port.host)?;
            match part {
                Some(position) => {
                    let parts = &mut here(&mut s, self.port.host, vm)?.parts;
                    parts.entry(position).or_default().extend_from_slice(&chunk);
                }
                None => all.extend_from_slice(&chunk),
            }
        }
        Ok(all)
    }
}
