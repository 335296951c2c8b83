//! Mounts, processes and a network of its own for a test that mounts file systems and starts guests which outlive their
//! daemon: however the test ends, all of that ends with it.

use std::process::Command;

const INSIDE: &str = "LIFEBOAT_FAULTS_SANDBOX";
/// Collects orphans, which the first process of a namespace has to. It is not replaced by what it runs, for the second
/// command's sake.
/// Shared memory is its own: libfaketime names it by numbers of processes, which other sandboxes have too.
const FIRST_PROCESS: &str = r#"mount -t tmpfs tmpfs /dev/shm && ip link set lo up || exit; "$@"; exit $?"#;

/// Runs `body` in a sandbox: this test binary runs itself again there with only the test of this name.
///
/// # Panics
/// When the test fails there, and when this is not root or the kernel has no namespaces, `/dev/fuse` or loop devices. Such
/// a machine cannot tell whether the product holds, and a test that cannot tell must not pass.
pub fn run(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    for needed in ["/dev/fuse", "/dev/loop-control"] {
        assert!(
            rustix::process::geteuid().is_root() && std::fs::exists(needed).unwrap_or(false),
            "COULD NOT TELL: {test} needs root and {needed}: run the tests as root on a machine that has it \
             (a container needs --privileged)"
        );
    }
    let exe = std::env::current_exe().unwrap_or_else(|e| panic!("the test binary has no name: {e}"));
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--net", "--fork"])
        .args([
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            FIRST_PROCESS,
            "bash",
        ])
        .arg(exe)
        .args([
            "--exact",
            test,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(INSIDE, "1")
        .status()
        .unwrap_or_else(|e| panic!("COULD NOT TELL: cannot run unshare (package util-linux): {e}"));
    assert!(status.success(), "{test}: {status}; what it said is above");
}
