//! The command line's words. Help texts are part of the product and are held by golden files.

mod cert;
mod failover;
mod plain;
mod replication;
mod request;
mod user;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lifeboat_model::JobId;

use super::exit;
use super::units::{self, LimitWindow, Rate, Size};
use crate::config::DEFAULT_SOCKET;
use plain::OfVm;

pub(crate) use cert::{AuthorityDir, Cert};
pub(crate) use failover::{Failover, Network, SetCard, Start};
pub(crate) use plain::Plain;
pub(crate) use replication::{
    Changes, Copy, Enable, Extend, Outgoing, Remove, Replication, Resync, Reverse, Side, TrustKey,
};
pub(crate) use request::Request;
pub(crate) use user::{Role, User, UsersFile};

/// Replicates virtual machines to another host and brings them up there.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, after_help = exit::HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Management socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", help_heading = "Everywhere", env = "LIFEBOAT_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    pub(crate) socket: Utf8PathBuf,
    /// Form of the data on standard output: json is what the REST API gives, instants in milliseconds since 1970.
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        default_value = "table",
        help_heading = "Everywhere"
    )]
    pub(crate) output: Output,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// What `lifeboat` can be asked to do: the daemon, its certificates and users, and the actions of REST.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon of this host.
    Serve {
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/lifeboat/lifeboat.toml")]
        config: Utf8PathBuf,
    },
    /// Virtual machines of this host.
    #[command(subcommand)]
    Vm(Vm),
    /// Replication of VMs to other hosts.
    #[command(subcommand)]
    Replication(Replication),
    /// List the recovery points of a replica, newest first.
    Points {
        /// VM, by name or UUID.
        vm: String,
    },
    /// Bring a replica up, and decide whether it stays.
    #[command(subcommand)]
    Failover(Failover),
    /// Long operations.
    #[command(subcommand)]
    Job(Job),
    /// What waits for a second person.
    #[command(subcommand)]
    Request(Request),
    /// Show what happened, newest last.
    Events {
        /// Only events of this VM, by name or UUID.
        vm: Option<String>,
        /// Show at most this many.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Who may replicate to this host, and where the copies go.
    #[command(subcommand)]
    Authorization(Authorization),
    /// This host as a replica server.
    #[command(subcommand)]
    Server(Server),
    /// Check that a host can be replicated to: reach it, authenticate, be authorized.
    TestConnection {
        /// The host.
        #[arg(value_name = "HOST:PORT")]
        peer: String,
    },
    /// Certificates for hosts, from a small authority of your own.
    #[command(subcommand)]
    Cert(Cert),
    /// Who may manage this host over the network.
    #[command(subcommand)]
    User(User),
}

/// `lifeboat vm`.
#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// List all VMs, replicas included.
    List,
    /// Show everything about one VM.
    Show {
        /// VM, by name or UUID.
        vm: String,
    },
    /// Start a VM, or let one go on that is paused or stalled.
    Start {
        /// VM, by name or UUID.
        vm: String,
        /// Start it although the other host was reached and did not say whether it runs the VM.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Shut a VM down.
    Stop {
        /// VM, by name or UUID.
        vm: String,
        /// Turn it off at once, without asking the guest.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    #[command(flatten)]
    Plain(OfVm),
    /// Use the serial console of a VM; leave it with Ctrl-].
    Console {
        /// VM, by name or UUID.
        vm: String,
    },
    /// Save a picture of a VM's screen as PNG.
    Screenshot {
        /// VM, by name or UUID.
        vm: String,
        /// File to write, or - for standard output.
        file: Utf8PathBuf,
    },
}

/// A VM, and whether to wait.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// VM, by name or UUID.
    pub(crate) vm: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// Whether to wait for a job.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Do not wait for the job; print its id.
    #[arg(long, conflicts_with = "follow")]
    pub(crate) detach: bool,
    /// Wait for the job and show its progress (the default); Ctrl-C leaves it running.
    #[arg(long)]
    pub(crate) follow: bool,
}

/// `lifeboat job`.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List jobs, newest first.
    List,
    /// Show one job.
    Show {
        /// Its id.
        job: JobId,
    },
    /// Cancel a job.
    Cancel {
        /// Its id.
        job: JobId,
    },
    /// Wait for a job and show its progress.
    Follow {
        /// Its id.
        job: JobId,
    },
}

/// `lifeboat authorization`.
#[derive(Debug, Subcommand)]
pub(crate) enum Authorization {
    /// Let a primary replicate to this host, or change what it may do; what is not named stays as it is.
    Add {
        /// Name in its certificate: exact, *.domain, or *.
        primary: String,
        #[command(flatten)]
        changes: EntryChanges,
    },
    /// List who may.
    List,
    /// Stop letting a primary replicate to this host; its replicas stay.
    Remove {
        /// As it was added.
        primary: String,
    },
}

/// `lifeboat authorization add`.
#[derive(Debug, Args)]
pub(crate) struct EntryChanges {
    /// Directory for its replicas; a new entry needs one.
    #[arg(long, value_name = "DIR")]
    pub(crate) location: Option<Utf8PathBuf>,
    /// Primaries that share a group may feed each other's replicas. Default: a group of its own.
    #[arg(long, value_name = "GROUP")]
    pub(crate) trust_group: Option<String>,
    /// Whether a planned failover that is started on the primary may start its VM here. Default: off.
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on")]
    pub(crate) allow_start: Option<Switch>,
    /// How long recovery points are kept whatever the primary asks for, up to 366d. Default: 0s, as it asks.
    #[arg(long, value_name = "TIME", value_parser = units::seconds::<u32>)]
    pub(crate) keep_at_least: Option<u32>,
    /// Until then the entry cannot be removed and --keep-at-least only grows: +30d, "2027-03-01 00:00", or RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub(crate) locked_until: Option<String>,
    /// How many VMs its primaries may replicate here. Default: 1000.
    #[arg(long, value_name = "N")]
    pub(crate) max_vms: Option<u32>,
    /// How much of the disks their replicas may take together: 500GiB, 2TiB, or none. Default: none, what the disk has.
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) max_bytes: Option<Size>,
    /// How large a disk of theirs may be: 500GiB, 2TiB, or none. Default: none, as the primary asks.
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) max_disk: Option<Size>,
    /// How many additional recovery points they may ask for: 0 to 24. Default: 24.
    #[arg(long, value_name = "N")]
    pub(crate) max_points: Option<u16>,
}

/// `lifeboat server`.
#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    /// Show name, version, address and settings.
    Show,
    /// Change settings; what is not named stays as it is.
    Set(ServerChanges),
}

/// `lifeboat server set`.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct ServerChanges {
    /// Whether this host takes replicas.
    #[arg(long, value_name = "ON|OFF")]
    pub(crate) replica: Option<Switch>,
    /// Length of a window of statistics and health: 1h to 7d.
    #[arg(long, value_name = "TIME", value_parser = units::seconds::<u32>)]
    pub(crate) monitoring_interval: Option<u32>,
    /// Time of day at which windows begin.
    #[arg(long, value_name = "HH:MM", value_parser = units::minute)]
    pub(crate) monitoring_start: Option<u16>,
    /// Most that this host sends, all VMs together: 10MiB/s, 100Mbit/s, or none.
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<Rate>,
    /// Another limit for a part of the day, 22:00-06:00=none; repeat for more, the first that fits counts. Replaces all
    /// earlier ones; none: without them.
    #[arg(long = "bandwidth-window", value_name = "FROM-TO=RATE")]
    pub(crate) bandwidth_windows: Vec<LimitWindow>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}
