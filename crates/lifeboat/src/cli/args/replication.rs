//! Words of `lifeboat replication`. Limits are the model's; here is only how they are written.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};
use lifeboat_engine::action::RelationshipRef;
use lifeboat_model::{DiskId, Fingerprint};

use super::plain::OfReplication;
use super::{Switch, Target, Wait};
use crate::cli::units::{self, AutoResync, LimitWindow, Rate};

/// `lifeboat replication`.
#[derive(Debug, Subcommand)]
pub(crate) enum Replication {
    /// Set a VM up for replication; `replication start` then copies it.
    Enable(Enable),
    /// Change the settings of a running replication; what is not named stays as it is. On a replica those of the replication to
    /// a third host.
    Set {
        /// VM, by name or UUID.
        vm: String,
        #[command(flatten)]
        changes: Changes,
        #[command(flatten)]
        outgoing: Outgoing,
        #[command(flatten)]
        wait: Wait,
    },
    /// Start the initial copy of a VM, running or not: over the network, by a medium, or from a copy the replica has. On a
    /// replica that to a third host, over the network.
    Start(Copy),
    /// Give up an initial copy that is scheduled or under way; what was copied is kept.
    CancelCopy(Side),
    /// Import an initial copy that was exported to a directory; on the replica host.
    Import {
        /// VM, by name or UUID.
        vm: String,
        /// Directory with the exported copy.
        dir: Utf8PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
    /// Show how replication is doing: of all VMs in a table, of one VM in full.
    Status {
        /// VM, by name or UUID.
        vm: Option<String>,
    },
    /// Pause the replication of a VM, or its resynchronization.
    Suspend(Side),
    /// Resume a paused replication, or a paused resynchronization where it stopped.
    Resume(Side),
    /// Replicate now, without waiting for the interval.
    Now(Target),
    /// Compare both copies and send what differs; recovery points stay. On the primary host, or on a replica
    /// with a third host.
    Resync(Resync),
    /// Replicate the other way round; on the host whose failover was committed.
    Reverse(Reverse),
    #[command(flatten)]
    Plain(OfReplication),
    /// Show what replication has cost and missed in the current window.
    #[command(visible_alias = "measure")]
    Statistics {
        /// VM, by name or UUID.
        vm: String,
    },
    /// Begin a new window of statistics.
    ResetStatistics(Side),
    /// Let only primaries that an authorization entry covers feed a replica; on the replica host.
    Allow {
        /// VM, by name or UUID.
        vm: String,
        /// Primary of the entry, as it was added.
        primary: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Accept a new key of another host for the replications that name it, where it was changed without an announcement.
    /// Compare it first with what `lifeboat cert show` says on that host.
    TrustKey(TrustKey),
    /// Send on to a third host what arrives at this replica; several times for several hosts.
    Extend(Extend),
    /// Go on as the primary of a third host; on the middle host, after a committed failover.
    Continue(Side),
    /// End the replication of a VM on this host; the other host is not notified and keeps what it has.
    Remove(Remove),
}

/// `lifeboat replication trust-key`.
#[derive(Debug, Args)]
pub(crate) struct TrustKey {
    /// Name of the host in its certificate, or how it is called.
    pub(crate) host: String,
    /// SHA-256 fingerprint of its key.
    #[arg(value_name = "FINGERPRINT")]
    pub(crate) key: Fingerprint,
    /// For this VM alone, by name or UUID. Default: for all.
    #[arg(long, value_name = "VM")]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// A VM, and which of its relationships.
#[derive(Debug, Args)]
pub(crate) struct Side {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) outgoing: Outgoing,
}

/// Which of a replica's relationships.
#[derive(Debug, Args)]
pub(crate) struct Outgoing {
    /// The replication to a third host. Of several name one: its host, or its number in
    /// `replication status --json`.
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "extended")]
    pub(crate) extended: Option<String>,
}

impl Outgoing {
    /// As an action names it.
    pub(crate) fn relationship(&self) -> RelationshipRef {
        self.extended
            .clone()
            .map(RelationshipRef::from)
            .unwrap_or_default()
    }

    /// Which host it is, in a sentence about what is sent, with a space before it; empty when none is meant.
    pub(crate) fn to(&self) -> String {
        match self.relationship() {
            RelationshipRef::Usual => String::new(),
            RelationshipRef::Outgoing | RelationshipRef::Id(_) => " to the third host".into(),
            RelationshipRef::Peer(peer) => format!(" to {peer}"),
        }
    }

    /// The option as it was typed, with a space before it.
    pub(crate) fn option(&self) -> String {
        match self.relationship() {
            RelationshipRef::Usual => String::new(),
            RelationshipRef::Outgoing => " --extended".into(),
            named @ (RelationshipRef::Id(_) | RelationshipRef::Peer(_)) => {
                format!(" --extended={}", String::from(named))
            }
        }
    }
}

/// `lifeboat replication remove`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub(crate) side: Side,
    /// Whatever state it is in, by this host's record alone: when the other host or the files are gone for good. All files are
    /// kept.
    #[arg(long, conflicts_with = "extended")]
    pub(crate) force: bool,
}

/// `lifeboat replication extend`.
#[derive(Debug, Args)]
pub(crate) struct Extend {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    /// Third host, which takes a copy of the copy.
    #[arg(long, alias = "peer", value_name = "HOST:PORT")]
    pub(crate) to: String,
    /// Time between cycles: up to 15m, not less than the primary's.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = units::seconds::<u16>)]
    pub(crate) interval: u16,
    /// Additional recovery points to keep there: 0 to 24.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) history: u16,
    /// Time between kept recovery points: 1s to 1d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::seconds::<u32>)]
    pub(crate) point_spacing: u32,
    /// How far back every single cycle can be brought back there: 0s to 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::seconds::<u32>)]
    pub(crate) any_point: u32,
    /// Most to send: 10MiB/s, 100Mbit/s, or none.
    #[arg(long, value_name = "RATE", default_value = "none")]
    pub(crate) bandwidth: Rate,
    /// Another limit for a part of the day, 22:00-06:00=none; repeat for more, the first that fits counts.
    #[arg(long = "bandwidth-window", value_name = "FROM-TO=RATE")]
    pub(crate) bandwidth_windows: Vec<LimitWindow>,
    /// Do not start the copy; `replication start` does.
    #[arg(long)]
    pub(crate) no_start: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `lifeboat replication enable`.
#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    /// Host that takes the replica.
    #[arg(long, alias = "peer", value_name = "HOST:PORT")]
    pub(crate) to: String,
    /// Time between cycles: 1s to 15m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::seconds::<u16>)]
    pub(crate) interval: u16,
    /// Additional recovery points to keep: 0 to 24.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) history: u16,
    /// Time between kept recovery points: 1s to 1d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::seconds::<u32>)]
    pub(crate) point_spacing: u32,
    /// How far back every single cycle can be brought back: 0s to 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::seconds::<u32>)]
    pub(crate) any_point: u32,
    /// Disk to replicate; repeat for more. Default: all disks.
    #[arg(long = "disk", value_name = "ID", value_parser = disk)]
    pub(crate) disks: Vec<DiskId>,
    /// Send without compression.
    #[arg(long)]
    pub(crate) no_compression: bool,
    /// Hours between points at which the guest's agent holds its file systems still: 1 to 12; 0: never.
    #[arg(long, value_name = "HOURS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=12))]
    pub(crate) application_consistent: u8,
    /// When a resynchronization that became necessary may begin by itself, by this host's clock.
    #[arg(long, value_name = "any|off|FROM-TO", default_value = "any")]
    pub(crate) auto_resync: AutoResync,
    /// Most to send: 10MiB/s, 100Mbit/s, or none.
    #[arg(long, value_name = "RATE", default_value = "none")]
    pub(crate) bandwidth: Rate,
    /// Another limit for a part of the day, 22:00-06:00=none; repeat for more, the first that fits counts.
    #[arg(long = "bandwidth-window", value_name = "FROM-TO=RATE")]
    pub(crate) bandwidth_windows: Vec<LimitWindow>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `lifeboat replication set`: what changes.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct Changes {
    /// Other address of the host that has the replica.
    #[arg(long, alias = "peer", value_name = "HOST:PORT")]
    pub(crate) to: Option<String>,
    /// Time between cycles: 1s to 15m.
    #[arg(long, value_name = "TIME", value_parser = units::seconds::<u16>)]
    pub(crate) interval: Option<u16>,
    /// Additional recovery points to keep: 0 to 24.
    #[arg(long, value_name = "N")]
    pub(crate) history: Option<u16>,
    /// Time between kept recovery points: 1s to 1d.
    #[arg(long, value_name = "TIME", value_parser = units::seconds::<u32>)]
    pub(crate) point_spacing: Option<u32>,
    /// How far back every single cycle can be brought back: 0s to 7d.
    #[arg(long, value_name = "TIME", value_parser = units::seconds::<u32>)]
    pub(crate) any_point: Option<u32>,
    /// Disk to replicate; repeat for all of them: disks that are not named are no longer replicated.
    #[arg(long = "disk", value_name = "ID", value_parser = disk)]
    pub(crate) disks: Vec<DiskId>,
    /// Whether to compress what is sent.
    #[arg(long, value_name = "ON|OFF")]
    pub(crate) compression: Option<Switch>,
    /// Hours between points at which the guest's agent holds its file systems still: 1 to 12; 0: never.
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u8).range(0..=12))]
    pub(crate) application_consistent: Option<u8>,
    /// When a resynchronization that became necessary may begin by itself, by this host's clock.
    #[arg(long, value_name = "any|off|FROM-TO")]
    pub(crate) auto_resync: Option<AutoResync>,
    /// Most to send: 10MiB/s, 100Mbit/s, or none.
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<Rate>,
    /// Another limit for a part of the day, 22:00-06:00=none; repeat for more, the first that fits counts. Replaces all
    /// earlier ones; none: without them.
    #[arg(long = "bandwidth-window", value_name = "FROM-TO=RATE")]
    pub(crate) bandwidth_windows: Vec<LimitWindow>,
}

/// `lifeboat replication start`.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    /// Copy to this new or empty directory; carry it to the replica host and import it there.
    #[arg(long, value_name = "DIR", conflicts_with = "seed")]
    pub(crate) export: Option<Utf8PathBuf>,
    /// Compare with a copy of the VM that the replica host has, and send only what differs.
    #[arg(long)]
    pub(crate) seed: bool,
    /// Begin later, at most 7 days ahead: 22:00, "tomorrow 6:30", +30m, or RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) outgoing: Outgoing,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `lifeboat replication resync`.
#[derive(Debug, Args)]
pub(crate) struct Resync {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    /// Begin later, at most 7 days ahead: 22:00, "tomorrow 6:30", +30m, or RFC 3339.
    #[arg(long, value_name = "TIME", conflicts_with = "cancel")]
    pub(crate) at: Option<String>,
    /// Give the resynchronization up; it is still required afterwards.
    #[arg(long)]
    pub(crate) cancel: bool,
    #[command(flatten)]
    pub(crate) outgoing: Outgoing,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `lifeboat replication reverse`.
#[derive(Debug, Args)]
pub(crate) struct Reverse {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    /// Host that becomes the replica. Default: the old primary.
    #[arg(long, alias = "to", value_name = "HOST:PORT")]
    pub(crate) peer: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

// Not `FromStr`: the type takes owned text.
fn disk(text: &str) -> Result<DiskId, lifeboat_model::IdError> {
    DiskId::new(text)
}
