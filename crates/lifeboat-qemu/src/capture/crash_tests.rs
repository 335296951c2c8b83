//! Daemons that die in the middle of a cycle, before each of its monitor commands, and instants that were prepared and not
//! taken. What a cycle does when nothing dies is in `tests`.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use lifeboat_block::qmp::{Monitor, Qmp, QmpError};
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{CaptureError, CaptureSource, Tracking};
use lifeboat_engine::ports::hypervisor::{Hypervisor, Launch};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use serde_json::Value;

use crate::testing::{AtOnce, Guest, Host, MIB, Model, Replica, at};

const CRASH: Consistency = Consistency::Crash;

/// Monitor commands of a cycle of two disks of a running VM, with its acknowledgement.
const COMMANDS: i64 = 31;

/// A monitor of a daemon that dies before one of its commands.
#[derive(Debug)]
struct Mortal {
    monitor: Qmp,
    /// Commands left before that; negative: unlimited.
    left: Arc<AtomicI64>,
}

impl Mortal {
    fn spend(&self) -> Result<(), QmpError> {
        let one_less = |n: i64| (n >= 0).then(|| (n - 1).max(0));
        match self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
        {
            Ok(0) => Err(QmpError::Closed),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Monitor for Mortal {
    async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.spend()?;
        self.monitor.execute(command, arguments).await
    }

    async fn execute_with_file(
        &self,
        command: &str,
        arguments: Value,
        file: OwnedFd,
    ) -> Result<Value, QmpError> {
        self.spend()?;
        self.monitor.execute_with_file(command, arguments, file).await
    }
}

/// One cycle in which the daemon dies before the n-th monitor command; false when the cycle got through.
async fn dies_at(host: &Host, launch: &Launch, n: i64, state: &mut (u64, Model, Replica)) -> bool {
    let guest = host.guest(launch).await;
    let (base, model, replica) = state;
    let offset = u64::try_from(n).unwrap() * 4096;
    let (from, to) = (at(*base), at(*base + 1));
    guest.write("a", model, offset, 4096, 1).await;
    guest.write("b", model, offset, 4096, 2).await;
    let left = Arc::new(AtomicI64::new(-1));
    let mortal = |monitor| -> Arc<dyn Monitor> {
        let left = Arc::clone(&left);
        Arc::new(Mortal { monitor, left })
    };
    let ids: Vec<_> = launch.disks.iter().map(|d| d.id.clone()).collect();
    let doomed = super::open_by(&host.qemu, launch, &ids, mortal).await.unwrap();
    left.store(n, Ordering::SeqCst);
    let (mut past, mut prepared) = (None, false);
    let cycle = async {
        let instant = doomed.prepare(from, to, CRASH).await?;
        prepared = true;
        let instant = instant.take().await?;
        let mut copy = replica.clone();
        copy.apply(&*instant.view).await;
        past = Some((model.clone(), copy));
        guest.write("a", model, offset + 4096, 4096, 3).await;
        instant.view.close().await?;
        doomed.acknowledge(from).await
    };
    let survived = match cycle.await {
        Ok(()) => true,
        Err(CaptureError::Gone) => false,
        Err(other) => panic!("{other}"),
    };
    guest.write("b", model, offset + 8192, 4096, 4).await;
    drop(doomed);
    let source = host.source(launch).await;
    let known = source.recover().await.unwrap();
    // The delta arrived when all of it was read before the end.
    match (known, past) {
        (Tracking::Since(since), Some((past, copy))) if since == [from, to] || since == [to] => {
            assert!(copy.0 == past, "command {n}");
            *replica = copy;
            source.acknowledge(from).await.unwrap();
            *base += 1;
        }
        // Until it is taken, an instant changes nothing of what is tracked.
        (Tracking::Since(since), None) if since == [from] || prepared && since == [from, to] => {
            source.give_back(from, to).await.unwrap();
        }
        (known, past) => panic!("command {n}: {known:?}, instant read: {}", past.is_some()),
    }
    // An ordinary cycle afterwards brings everything.
    let (from, to) = (at(*base), at(*base + 1));
    let instant = source.instant(from, to, CRASH).await.unwrap();
    replica.apply(&*instant.view).await;
    instant.view.close().await.unwrap();
    source.acknowledge(from).await.unwrap();
    *base += 1;
    assert!(replica.0 == *model, "after command {n}");
    source.close().await.unwrap();
    survived
}

async fn dies_everywhere(formats: [lifeboat_model::DiskFormat; 2]) {
    let mut host = Host::new();
    let launch = host.vm(&formats);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    let model = Model::new(&["a", "b"]);
    let mut state = (1, model.clone(), Replica(model));
    let mut commands = 0;
    while !dies_at(&host, &launch, commands, &mut state).await {
        commands += 1;
        assert!(commands < 200);
    }
    // What a cycle of two disks costs: eight to prepare it, the rest to take, show, end and acknowledge it.
    assert_eq!(commands, COMMANDS);
}

#[tokio::test]
async fn a_daemon_may_die_before_any_command() {
    dies_everywhere([Qcow2, Raw]).await;
}

/// Nodes of the VM's process that only a capture makes.
async fn leftovers(guest: &Guest) -> Vec<String> {
    let ours = |n: &String| ["fleece-", "cbw-", "snap-"].iter().any(|p| n.starts_with(p));
    guest.nodes().await.into_iter().filter(ours).collect()
}

#[tokio::test]
async fn a_prepared_instant_that_is_not_taken_changes_nothing() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    host.qemu.start(&launch).await.unwrap();
    let mut model = Model::new(&["a", "b"]);
    let mut replica = Replica(model.clone());
    let mut source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let ids: Vec<_> = launch.disks.iter().map(|d| d.id.clone()).collect();
    for (n, dies) in (0..4_u64).zip([false, true, false, true]) {
        // The monitor for short questions serves one client at a time.
        let guest = host.guest(&launch).await;
        guest.write("a", &mut model, n * 65536, 4096, 1).await;
        drop(guest);
        let marked = Some((n + 1) * 4096 + n * 8192);
        assert_eq!(host.qemu.pending(launch.spec.uuid, &ids).await, marked);
        let prepared = source.prepare(at(1), at(2 + n), CRASH).await.unwrap();
        assert_eq!(host.qemu.pending(launch.spec.uuid, &ids).await, marked);
        let guest = host.guest(&launch).await;
        // A file and a filter of each disk.
        assert_eq!(leftovers(&guest).await.len(), 4);
        guest.write("b", &mut model, n * 65536, 8192, 2).await;
        drop(prepared);
        if dies {
            drop(source);
            source = host.source(&launch).await;
        }
        assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
        assert_eq!(leftovers(&guest).await, Vec::<String>::new());
        assert!(!host.qemu.paths(launch.spec.uuid).spool().exists());
    }
    // No change of that time is missing, and none is sent twice.
    let instant = source.instant(at(1), at(9), CRASH).await.unwrap();
    for disk in [0, 1] {
        let changed = instant.view.changed(disk).await.unwrap();
        assert_eq!(changed.len(), 4, "{changed:?}");
    }
    replica.apply(&*instant.view).await;
    assert!(replica.0 == model);
    instant.view.close().await.unwrap();
    source.acknowledge(at(1)).await.unwrap();
    source.close().await.unwrap();
}

#[tokio::test]
async fn an_instant_is_when_it_is_taken_and_not_when_it_is_prepared() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    guest.write("a", &mut model, 0, 4096, 1).await;
    let prepared = source.prepare(at(1), at(2), CRASH).await.unwrap();
    guest.write("a", &mut model, 0, 4096, 2).await;
    guest.write("b", &mut model, MIB, 4096, 2).await;
    let past = model.clone();
    let instant = prepared.take().await.unwrap();
    guest.write("a", &mut model, 0, 4096, 3).await;
    assert_eq!(past.differing(&*instant.view).await, Vec::<String>::new());
    instant.view.close().await.unwrap();
    source.acknowledge(at(1)).await.unwrap();
    source.close().await.unwrap();
}

/// Two VMs that share one instant: both are prepared before either is taken, and neither sees the other's end.
#[tokio::test]
async fn instants_of_two_vms_are_prepared_together_and_taken_together() {
    let mut host = Host::new();
    let launches = [host.vm(&[Qcow2]), host.vm(&[Raw])];
    let (mut guests, mut sources, mut models) = (Vec::new(), Vec::new(), Vec::new());
    for launch in &launches {
        host.qemu.start(launch).await.unwrap();
        guests.push(host.guest(launch).await);
        let source = host.source(launch).await;
        source.start_tracking(at(1)).await.unwrap();
        sources.push(source);
        models.push(Model::new(&["a"]));
    }
    for round in 1..4_u8 {
        let (base, next) = (at(round.into()), at(u64::from(round) + 1));
        let mut prepared = Vec::new();
        for (n, source) in sources.iter().enumerate() {
            prepared.push(source.prepare(base, next, CRASH).await.unwrap());
            guests[n].write("a", &mut models[n], 0, 4096, round).await;
        }
        let taken = futures_util::future::join_all(prepared.into_iter().map(|p| p.take())).await;
        let pasts = models.clone();
        for n in 0..2 {
            guests[n].write("a", &mut models[n], 0, 4096, round + 100).await;
        }
        for (n, instant) in taken.into_iter().enumerate() {
            let instant = instant.unwrap();
            assert_eq!(pasts[n].differing(&*instant.view).await, Vec::<String>::new());
            instant.view.close().await.unwrap();
            sources[n].acknowledge(base).await.unwrap();
        }
    }
    // One of the two is killed in between: the other's instant is as good as any.
    let prepared = [
        sources[0].prepare(at(4), at(5), CRASH).await.unwrap(),
        sources[1].prepare(at(4), at(5), CRASH).await.unwrap(),
    ];
    host.kill(&launches[0]).await;
    let [killed, alive] = prepared;
    assert!(matches!(killed.take().await, Err(CaptureError::Gone)));
    let instant = alive.take().await.unwrap();
    assert_eq!(models[1].differing(&*instant.view).await, Vec::<String>::new());
    instant.view.close().await.unwrap();
}
