//! Plain commands: a VM, one action, and a word about it when it is done. What is typed, what is asked for and what is said are
//! together here, so that one more is one place. Their nouns take them in without knowing which there are; a command that needs
//! arguments of its own, or has to look before it asks, is not plain: it is in the module of its noun, and in `run`.

use clap::Subcommand;
use lifeboat_engine::action::{Action, VmRef};
use lifeboat_model::shell::{argument, quoted};

use super::{Target, Wait};

/// What a plain command comes to.
pub(crate) struct Plain {
    pub(crate) action: Action,
    pub(crate) wait: Wait,
    /// Said when it is done.
    pub(crate) done: String,
}

fn plain(target: &Target, action: fn(VmRef) -> Action, done: String) -> Plain {
    Plain {
        action: action(VmRef::Text(target.vm.clone())),
        wait: target.wait,
        done,
    }
}

/// Those of `lifeboat vm`.
#[derive(Debug, Subcommand)]
pub(crate) enum OfVm {
    /// Stop the CPUs of a VM where they are; `vm start` lets it go on.
    Pause(Target),
    /// Press the reset button of a VM: it starts again without having shut down.
    Reset(Target),
}

impl OfVm {
    pub(crate) fn plain(&self) -> Plain {
        match self {
            Self::Pause(t) => {
                let start = argument(&t.vm);
                let done = format!("{} is paused; let it go on with: lifeboat vm start {start}", t.vm);
                plain(t, |vm| Action::PauseVm { vm }, done)
            }
            Self::Reset(t) => plain(t, |vm| Action::ResetVm { vm }, format!("{} is resetting", t.vm)),
        }
    }
}

/// Those of `lifeboat replication`.
#[derive(Debug, Subcommand)]
pub(crate) enum OfReplication {
    /// Try at once what waits for its next attempt after a failure, when you have mended what it failed by; on either host.
    Retry(Target),
    /// Make a VM that is off a replica that awaits its data, such as the VM of an old primary.
    BecomeReplica(Target),
    /// Throw away for good what an old primary had and the other host never got.
    DropAbandoned(Target),
    /// Verify the files of a replica by their recorded digests, and repair what can be; on the replica host.
    Scrub(Target),
    /// Keep every recovery point from expiring until they are released; on the replica host.
    HoldPoints(Target),
    /// Let recovery points expire again, after you have looked at them; on the replica's host.
    ReleasePoints(Target),
}

impl OfReplication {
    pub(crate) fn plain(&self) -> Plain {
        match self {
            Self::Retry(t) => {
                let status = argument(&t.vm);
                let done = format!(
                    "nothing of {} waits for its next attempt any more; see what comes of it with: lifeboat replication \
                     status {status}",
                    t.vm
                );
                plain(t, |vm| Action::RetryNow { vm }, done)
            }
            Self::BecomeReplica(t) => {
                let done = format!(
                    "{} is a replica now and awaits its data; on the other host: lifeboat replication reverse {1}, or \
                     lifeboat replication start {1} --seed",
                    t.vm,
                    quoted(&t.vm)
                );
                plain(t, |vm| Action::BecomeReplica { vm }, done)
            }
            Self::DropAbandoned(t) => {
                let done = format!("what only this host had of {} is gone", t.vm);
                plain(t, |vm| Action::DropAbandoned { vm }, done)
            }
            Self::Scrub(t) => {
                let done = format!(
                    "the replica of {} is as it was recorded; what had no digest yet has one now",
                    t.vm
                );
                plain(t, |vm| Action::Scrub { vm }, done)
            }
            Self::HoldPoints(t) => {
                let done = format!(
                    "no recovery point of {} expires until: lifeboat replication release-points {}",
                    t.vm,
                    argument(&t.vm)
                );
                plain(t, |vm| Action::HoldPoints { vm }, done)
            }
            Self::ReleasePoints(t) => {
                let done = format!("recovery points of {} expire again as they are due", t.vm);
                plain(t, |vm| Action::ReleasePoints { vm }, done)
            }
        }
    }
}

/// Those of `lifeboat failover`.
#[derive(Debug, Subcommand)]
pub(crate) enum OfFailover {
    /// End a test: turn the test VM off and throw it away.
    StopTest(Target),
}

impl OfFailover {
    pub(crate) fn plain(&self) -> Plain {
        match self {
            Self::StopTest(t) => {
                let done = format!("the test of {} is over and gone", t.vm);
                plain(t, |vm| Action::StopTest { vm }, done)
            }
        }
    }
}
