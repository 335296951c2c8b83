//! Carries out one command: each arm is one action and what to print of its answer.

mod authorization;
mod failover;
mod replication;
mod request;

use std::io::Write;

use jiff::Zoned;
use jiff::tz::TimeZone;
use lifeboat_engine::action::{
    Action, Answer, JobView, ReplicationView, ServerSettings, ServerView, VmRef, VmView,
};
use lifeboat_engine::paging::{Page, Paging};
use lifeboat_engine::query::Query;
use lifeboat_model::shell::quoted;
use lifeboat_model::{Bandwidth, Timestamp};
use lifeboat_rest::{Client, ClientError};
use serde::Serialize;

use super::args::{Cli, Command, Job, Output, Plain, Server, ServerChanges, Switch, Vm, Wait};
use super::exit::{Exit, Failure};
use super::refusal::Typed;
use super::show::{self, Names};
use super::units::{LimitWindow, Rate};
use super::{console, follow, units};

type Done = Result<Exit, Failure>;

/// What every command needs.
struct Cx<'a> {
    client: &'a Client,
    output: Output,
    zone: TimeZone,
    typed: Typed,
}

/// Carries out `cli` through `client`.
pub(crate) async fn run(client: &Client, cli: &Cli, typed: Typed) -> Done {
    let cx = Cx {
        client,
        output: cli.output,
        zone: TimeZone::system(),
        typed,
    };
    match &cli.command {
        Command::Vm(command) => vm(&cx, command).await,
        Command::Replication(command) => replication::run(&cx, command).await,
        Command::Points { vm } => {
            let points = cx.list(Query::list_points(name(vm), Paging::FIRST)).await?;
            if let Some(note) = show::out_of_order(&points) {
                eprintln!("{note}");
            }
            cx.print(&points, || show::points(&points, &cx.zone))
        }
        Command::Failover(command) => failover::run(&cx, command).await,
        Command::Job(command) => job(&cx, command).await,
        Command::Request(command) => request::run(&cx, command).await,
        Command::Events { vm, limit } => {
            let query = Query::list_events(vm.as_deref().map(name), *limit);
            let enough = usize::try_from(*limit).unwrap_or(usize::MAX);
            let mut events = cx.gather(query, enough).await?;
            events.truncate(enough);
            let names = cx.names().await?;
            // As they were recorded, oldest first: times of a clock that was set are in no order.
            events.reverse();
            cx.print(&events, || show::events(&events, &names, &cx.zone))
        }
        Command::Authorization(command) => authorization::run(&cx, command).await,
        Command::Server(command) => server(&cx, command).await,
        Command::TestConnection { peer } => {
            let wait = Wait {
                detach: false,
                follow: true,
            };
            cx.act(
                Action::TestConnection { peer: peer.clone() },
                wait,
                &format!("{peer} takes replicas from this host"),
            )
            .await
        }
        // The caller has carried these out already: they need no daemon.
        Command::Serve { .. } | Command::Cert(_) | Command::User(_) => Ok(Exit::Usage),
    }
}

fn name(vm: &str) -> VmRef {
    VmRef::Text(vm.to_owned())
}

impl Cx<'_> {
    /// Why there is no answer, in the words of the command line.
    fn failure(&self, action: &Action, error: ClientError) -> Failure {
        match error {
            ClientError::Refused(refusal) => self.typed.refused(action, refusal),
            ClientError::Unreachable { .. } | ClientError::Lost { .. } | ClientError::Protocol { .. } => {
                error.into()
            }
        }
    }

    /// Has an action performed.
    async fn perform(&self, action: &Action) -> Result<Answer, Failure> {
        let answer = self.client.perform(action).await;
        answer.map_err(|error| self.failure(action, error))
    }

    /// Asks a question.
    async fn query<T>(&self, query: Query<T>) -> Result<T, Failure> {
        let answer = self.client.query(&query).await;
        answer.map_err(|error| self.failure(query.action(), error))
    }

    /// Asks for a list, all pages of it: people see one list.
    async fn list<T>(&self, query: Query<Page<T>>) -> Result<Vec<T>, Failure> {
        self.gather(query, usize::MAX).await
    }

    /// The same with a list that ends when `enough` items are there.
    async fn gather<T>(&self, query: Query<Page<T>>, enough: usize) -> Result<Vec<T>, Failure> {
        let action = query.action().clone();
        let answer = self.client.gather(query, enough).await;
        answer.map_err(|error| self.failure(&action, error))
    }

    fn print<T: Serialize + ?Sized>(&self, value: &T, table: impl FnOnce() -> String) -> Done {
        let text = match self.output {
            Output::Table => table(),
            Output::Json => {
                let json = serde_json::to_string_pretty(value);
                json.map_err(|e| Failure::new(Exit::Failed, e.to_string(), ""))? + "\n"
            }
        };
        write_out(text.as_bytes())
    }

    /// Has something done; says `done` when it was done at once, else follows the job.
    async fn act(&self, action: Action, wait: Wait, done: &str) -> Done {
        match self.perform(&action).await?.job() {
            Some(job) if wait.detach && !job.state.is_final() => {
                eprintln!(
                    "the job carries on; follow it with: lifeboat job follow {}",
                    job.id
                );
                self.print(&job, || format!("{}\n", job.id))
            }
            Some(job) => self.follow(job, done).await,
            None => {
                eprintln!("{done}");
                Ok(Exit::Done)
            }
        }
    }

    async fn plain(&self, plain: Plain) -> Done {
        self.act(plain.action, plain.wait, &plain.done).await
    }

    async fn follow(&self, job: JobView, done: &str) -> Done {
        let names = self.names().await?;
        let (exit, last) = follow::follow(self.client, job, &names).await?;
        if exit == Exit::Done && !done.is_empty() {
            eprintln!("{done}");
        }
        if self.output == Output::Json {
            self.print(&last, String::new)?;
        }
        Ok(exit)
    }

    async fn vms(&self) -> Result<Vec<VmView>, Failure> {
        self.list(Query::list_vms(Paging::FIRST)).await
    }

    async fn vm(&self, vm: &str) -> Result<VmView, Failure> {
        self.query(Query::show_vm(name(vm))).await
    }

    async fn server(&self) -> Result<ServerView, Failure> {
        self.query(Query::show_server()).await
    }

    /// A time as `read` understands it, given to the option `--at`.
    fn time(
        &self,
        text: &str,
        read: fn(&str, &Zoned) -> Result<Timestamp, String>,
    ) -> Result<Timestamp, Failure> {
        let now = Zoned::now().with_time_zone(self.zone.clone());
        read(text, &now).map_err(|e| Failure::new(Exit::Usage, format!("--at: {e}"), ""))
    }

    /// People know VMs by name, jobs and events by UUID.
    async fn names(&self) -> Result<Names, Failure> {
        Ok(show::names(&self.vms().await?))
    }
}

/// Refuses a change of nothing: a word is missing, and success would hide it.
fn named<T: Default + PartialEq>(changes: &T, command: &str) -> Result<(), Failure> {
    if *changes != T::default() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        "nothing is named that should change",
        format!("see what can be: lifeboat {command} --help"),
    ))
}

/// The replication of a VM, to be changed.
fn replicated(view: &VmView) -> Result<&ReplicationView, Failure> {
    let vm = &view.spec.name;
    view.replication.as_ref().ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("{vm} is not replicated by this host"),
            format!(
                "set it up with: lifeboat replication enable {} --to HOST:PORT",
                quoted(vm)
            ),
        )
    })
}

/// Writes data to standard output.
pub(crate) fn write_out(bytes: &[u8]) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader of the pipe has seen enough, as `head` does.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(e) => Err(Failure::io("write to standard output", &e)),
        Ok(()) => Ok(Exit::Done),
    }
}

async fn vm(cx: &Cx<'_>, command: &Vm) -> Done {
    match command {
        Vm::List => {
            let vms = cx.vms().await?;
            cx.print(&vms, || show::vms(&vms))
        }
        Vm::Show { vm } => {
            let view = cx.vm(vm).await?;
            let names = cx.names().await?;
            cx.print(&view, || show::vm(&view, &names, &cx.zone))
        }
        Vm::Start { vm, force, wait } => {
            let action = Action::StartVm {
                vm: name(vm),
                force: *force,
            };
            cx.act(action, *wait, &format!("{vm} runs")).await
        }
        Vm::Plain(command) => cx.plain(command.plain()).await,
        Vm::Stop { vm, force, wait } => {
            cx.act(
                Action::StopVm {
                    vm: name(vm),
                    force: *force,
                },
                *wait,
                &format!("{vm} is off"),
            )
            .await
        }
        Vm::Console { vm } => {
            let view = cx.vm(vm).await?;
            console::bridge(&view).await
        }
        Vm::Screenshot { vm, file } => {
            let png = cx.query(Query::screenshot(name(vm))).await?;
            if file == "-" {
                return write_out(&png);
            }
            std::fs::write(file, &png).map_err(|e| Failure::io(&format!("write {file}"), &e))?;
            eprintln!("saved {file}, {}", units::size(png.len() as u64));
            Ok(Exit::Done)
        }
    }
}

async fn job(cx: &Cx<'_>, command: &Job) -> Done {
    match command {
        Job::List => {
            let jobs = cx.list(Query::list_jobs(Paging::FIRST)).await?;
            let names = cx.names().await?;
            cx.print(&jobs, || show::jobs(&jobs, &names, &cx.zone))
        }
        Job::Show { job } => {
            let job = cx.query(Query::show_job(*job)).await?;
            let names = cx.names().await?;
            cx.print(&job, || show::job(&job, &names, &cx.zone))
        }
        Job::Cancel { job } => {
            cx.perform(&Action::CancelJob { job: *job }).await?;
            eprintln!("job {job} is being cancelled");
            Ok(Exit::Done)
        }
        Job::Follow { job } => {
            let job = cx.query(Query::show_job(*job)).await?;
            cx.follow(job, "").await
        }
    }
}

async fn server(cx: &Cx<'_>, command: &Server) -> Done {
    match command {
        Server::Show => {
            let view = cx.server().await?;
            cx.print(&view, || show::server(&view, &cx.zone))
        }
        Server::Set(changes) => {
            named(changes, "server set")?;
            let mut settings = cx.server().await?.settings;
            change_server(&mut settings, changes);
            let done = match changes.replica {
                Some(Switch::On) => "this host takes replicas",
                Some(Switch::Off) => "this host takes no replicas",
                None => "the settings of this host are changed; see them with: lifeboat server show",
            };
            let wait = Wait {
                detach: false,
                follow: true,
            };
            cx.act(Action::SetServer { settings }, wait, done).await
        }
    }
}

fn change_server(settings: &mut ServerSettings, changes: &ServerChanges) {
    let ServerChanges {
        replica,
        monitoring_interval,
        monitoring_start,
        bandwidth,
        bandwidth_windows,
    } = changes;
    if let Some(replica) = replica {
        settings.enabled = *replica == Switch::On;
    }
    settings.monitoring_interval_s = monitoring_interval.unwrap_or(settings.monitoring_interval_s);
    settings.monitoring_start_min = monitoring_start.unwrap_or(settings.monitoring_start_min);
    change_bandwidth(&mut settings.bandwidth, *bandwidth, bandwidth_windows);
}

/// Windows that are named replace all there were.
fn change_bandwidth(limit: &mut Bandwidth, rate: Option<Rate>, windows: &[LimitWindow]) {
    if let Some(Rate(bytes)) = rate {
        limit.bytes_per_s = bytes;
    }
    if !windows.is_empty() {
        limit.windows = windows.iter().filter_map(|w| w.0).collect();
    }
}
