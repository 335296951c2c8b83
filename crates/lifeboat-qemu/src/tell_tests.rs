//! What is told of real QEMU processes that end, are stopped and go on.

use std::time::Duration;

use lifeboat_engine::ports::hypervisor::{
    Hypervisor, HypervisorError, Launch, MachineEvent, Power, PowerChange,
};
use lifeboat_model::{DiskFormat, VmId};
use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::process::PidRecord;
use crate::qemu::Qemu;
use crate::testing::{Host, tool};

/// What is told next.
async fn next(events: &mut Receiver<MachineEvent>) -> (VmId, PowerChange) {
    let told = tokio::time::timeout(Duration::from_secs(30), events.recv()).await;
    let MachineEvent::Power { vm, change } = told.expect("nothing is told").unwrap();
    (vm, change)
}

/// A VM that runs.
async fn started(host: &mut Host) -> Launch {
    let launch = host.vm(&[DiskFormat::Qcow2]);
    host.qemu.start(&launch).await.unwrap();
    launch
}

/// Kills the VM's process as any administrator can.
fn kill(host: &Host, vm: VmId) {
    let record = PidRecord::load(host.qemu.paths(vm).pid().as_std_path()).unwrap();
    tool("kill", &["-9", &record.pid.to_string()]);
}

/// Has the VM's process end without a call of the port, as it does when its guest shuts down.
async fn quit(host: &Host, vm: VmId) {
    let monitor = host.qemu.control(vm).await.unwrap();
    // It may close the connection before the answer is out.
    let _ = monitor.execute("quit", Value::Null).await;
}

#[tokio::test]
async fn a_process_that_ends_by_itself_is_told() {
    let mut host = Host::new();
    let mut events = host.qemu.watch().await;
    let launch = started(&mut host).await;
    let vm = launch.spec.uuid;
    kill(&host, vm);
    assert_eq!(next(&mut events).await, (vm, PowerChange::EndedByItself));
    assert_eq!(host.qemu.power(vm).await, Power::Off, "what is told is so");
    host.qemu.start(&launch).await.unwrap();
    quit(&host, vm).await;
    assert_eq!(next(&mut events).await, (vm, PowerChange::EndedByItself));
    assert_eq!(host.qemu.power(vm).await, Power::Off);
    assert_eq!(events.try_recv(), Err(TryRecvError::Empty), "each is told once");
}

#[tokio::test]
async fn a_process_that_was_asked_to_end_is_told_as_such() {
    let mut host = Host::new();
    let mut events = host.qemu.watch().await;
    let launch = started(&mut host).await;
    let vm = launch.spec.uuid;
    // There is no system in it that would follow.
    let late = host.qemu.shut_down(vm, Duration::from_millis(200)).await;
    assert!(
        matches!(late, Err(HypervisorError::ShutdownTimeout(_))),
        "{late:?}"
    );
    kill(&host, vm);
    let told = next(&mut events).await;
    assert_eq!(told, (vm, PowerChange::EndedByItself), "the request was over");
    host.qemu.start(&launch).await.unwrap();
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(next(&mut events).await, (vm, PowerChange::Ended));
    host.qemu.start(&launch).await.unwrap();
    kill(&host, vm);
    let told = next(&mut events).await;
    assert_eq!(
        told,
        (vm, PowerChange::EndedByItself),
        "no earlier request counts"
    );
}

#[tokio::test]
async fn a_daemon_that_was_restarted_is_told_of_processes_it_finds() {
    let mut host = Host::new();
    let first = started(&mut host).await.spec.uuid;
    let (other, _) = host.branches(&["other"]);
    host.qemu.start(&other).await.unwrap();
    let second = other.spec.uuid;
    // It has not looked at any VM yet.
    let daemon = Qemu::new(host.qemu.config.clone());
    let mut events = daemon.watch().await;
    kill(&host, first);
    assert_eq!(next(&mut events).await, (first, PowerChange::EndedByItself));
    quit(&host, second).await;
    assert_eq!(next(&mut events).await, (second, PowerChange::EndedByItself));
    for vm in [first, second] {
        assert_eq!(daemon.power(vm).await, Power::Off);
    }
}

#[tokio::test]
async fn a_replicated_guest_that_stops_and_goes_on_is_told() {
    let mut host = Host::new();
    let launch = started(&mut host).await;
    let vm = launch.spec.uuid;
    let source = host.source(&launch).await;
    let mut events = host.qemu.watch().await;
    // Not by a call of the port: somebody else has the monitor.
    let monitor = host.qemu.control(vm).await.unwrap();
    for (command, change) in [("stop", PowerChange::Halted), ("cont", PowerChange::WentOn)] {
        monitor.execute(command, Value::Null).await.unwrap();
        assert_eq!(next(&mut events).await, (vm, change));
    }
    drop(monitor);
    assert_eq!(host.qemu.power(vm).await, Power::Running);
    source.close().await.unwrap();
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(next(&mut events).await, (vm, PowerChange::Ended));
}
