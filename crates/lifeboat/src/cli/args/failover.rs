//! Words of `lifeboat failover`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use lifeboat_model::NicBackend;

use super::plain::OfFailover;
use super::{Target, Wait};
use crate::cli::units;

/// `lifeboat failover`.
#[derive(Debug, Subcommand)]
pub(crate) enum Failover {
    /// Bring a replica up: provisionally at a recovery point, as a test, or planned and without any loss.
    #[command(after_help = START_HELP)]
    Start(Start),
    /// Throw the failover away: every recovery point is as it was, another one can be tried.
    Revert {
        /// VM, by name or UUID.
        vm: String,
        /// Turn the VM off first if it runs.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Keep the failover for good: the VM lives here now, the other recovery points go.
    #[command(visible_alias = "complete")]
    Commit(Target),
    #[command(flatten)]
    Plain(OfFailover),
    /// Cancel a planned failover before the replica has taken over, and replicate again; on the primary host.
    Cancel {
        /// VM, by name or UUID.
        vm: String,
        /// Go on although the replica does not answer and may have taken over.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Show or change what the VM's network cards become after a failover and in a test.
    Network {
        /// VM, by name or UUID.
        vm: String,
        /// What to do; show when nothing is said.
        #[command(subcommand)]
        command: Option<Network>,
    },
}

const START_HELP: &str = "\
Three kinds of failover:
  lifeboat failover start VM            on the replica host, when the primary is lost: nothing is lost by trying;
                                        then failover revert, or failover commit
  lifeboat failover start VM --test     on the replica host: another VM, \"VM - Test\"; replication goes on;
                                        end it with failover stop-test
  lifeboat failover start VM --planned  on either host: shut down, send the rest, start on the replica, and
                                        replicate back";

/// `lifeboat failover start`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command")]
pub(crate) struct Start {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    /// Recovery point, by its id in `lifeboat points`, the beginning of it, or its GUID in the management API. Default: the
    /// newest data.
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    pub(crate) point: Option<String>,
    /// The newest recovery point not after this time: 10:42, 10:42:07, "yesterday 10:42", -5m, or RFC 3339.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) at: Option<String>,
    /// Make a VM for a test beside the replica, without a network unless one was set for tests.
    #[arg(long)]
    pub(crate) test: bool,
    /// Move the VM to the replica host without losing anything.
    #[arg(long, conflicts_with_all = ["test", "point", "at"])]
    pub(crate) planned: bool,
    /// Only shut down and send the rest; `failover start` on the replica host goes on. On the primary host.
    #[arg(long, requires = "planned", conflicts_with_all = ["start", "no_start"])]
    pub(crate) prepare: bool,
    /// Start the VM as well (the default, except with --test).
    #[arg(long, conflicts_with = "no_start")]
    pub(crate) start: bool,
    /// Make the disks ready, but do not start the VM.
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Do it although the primary answers that its VM is running; with --planned, turn the VM off when it does not shut
    /// down.
    #[arg(long, conflicts_with = "test")]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `lifeboat failover network VM`.
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Show what each card becomes.
    Show,
    /// Change one card; what is not named stays as it is.
    Set(SetCard),
    /// Forget the settings: the guest keeps its addresses, and a test VM has no network.
    Clear {
        /// Only of this card, by its MAC address.
        #[arg(long)]
        mac: Option<String>,
    },
}

/// `lifeboat failover network VM set`.
#[derive(Debug, Args)]
pub(crate) struct SetCard {
    /// Card, by its MAC address; may be left out when the VM has one card.
    #[arg(long)]
    pub(crate) mac: Option<String>,
    #[command(flatten)]
    pub(crate) changes: CardChanges,
}

/// What changes on a card.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct CardChanges {
    /// The guest takes its addresses from DHCP.
    #[arg(long, conflicts_with_all = ["address", "gateway"])]
    pub(crate) dhcp: bool,
    /// Static address with the length of its prefix, 10.1.2.3/24 or fd00::3/64; repeat for more. Replaces all earlier
    /// ones.
    #[arg(long, value_name = "CIDR")]
    pub(crate) address: Vec<String>,
    /// Gateway, one of each family; repeat for the other one.
    #[arg(long, value_name = "IP")]
    pub(crate) gateway: Vec<IpAddr>,
    /// Name server; repeat for more, the preferred one first.
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<IpAddr>,
    /// What the card is connected to after a failover: none, user, tap:INTERFACE, or bridge:INTERFACE. Default: as the VM is
    /// described, but never to a tap or a bridge of the primary.
    #[arg(long, value_name = "NETWORK", value_parser = units::network)]
    pub(crate) connect: Option<NicBackend>,
    /// What the card of a test VM is connected to, in the same words. Default: none.
    #[arg(long, value_name = "NETWORK", value_parser = units::network)]
    pub(crate) test_connect: Option<NicBackend>,
}
