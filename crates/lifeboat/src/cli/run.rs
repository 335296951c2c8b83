//! Carries out one command: each arm is one action and what to print of its answer.

use std::io::Write;

use jiff::Zoned;
use jiff::tz::TimeZone;
use lifeboat_api::{Client, ClientError};
use lifeboat_engine::action::{Action, Answer, PointSelector, VmRef, VmView};
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::records::ServerSettings;
use lifeboat_model::{AuthorizationEntry, ReplicationSettings};
use serde::Serialize;

use super::args::{
    Authorization, Cli, Command, Enable, Failover, Job, Output, Replication, Server, Switch, Vm, Wait,
};
use super::exit::{Exit, Failure};
use super::show::{self, Names};
use super::{console, follow, units, wish};

type Done = Result<Exit, Failure>;

/// What every command needs.
struct Cx<'a> {
    client: &'a Client,
    output: Output,
    zone: TimeZone,
}

/// Carries out `cli` through `client`.
pub(crate) async fn run(client: &Client, cli: &Cli) -> Done {
    let cx = Cx {
        client,
        output: cli.output,
        zone: TimeZone::system(),
    };
    match &cli.command {
        Command::Vm(command) => vm(&cx, command).await,
        Command::Replication(command) => replication(&cx, command).await,
        Command::Points { vm } => {
            let Answer::Points(points) = cx.ask(Action::ListPoints { vm: name(vm) }).await? else {
                return strange();
            };
            cx.print(&points, || show::points(&points, &cx.zone))
        }
        Command::Failover(command) => failover(&cx, command).await,
        Command::Job(command) => job(&cx, command).await,
        Command::Events { vm, limit } => {
            let action = Action::ListEvents {
                vm: vm.as_deref().map(name),
                limit: *limit,
            };
            let Answer::Events(mut events) = cx.ask(action).await? else {
                return strange();
            };
            let names = cx.names().await?;
            events.sort_by_key(|e| e.at);
            cx.print(&events, || show::events(&events, &names, &cx.zone))
        }
        Command::Authorization(command) => authorization(&cx, command).await,
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
        Command::Serve { .. } | Command::Cert(_) => Ok(Exit::Usage),
    }
}

fn name(vm: &str) -> VmRef {
    VmRef(vm.to_owned())
}

fn strange<T>() -> Result<T, Failure> {
    Err(Failure::new(
        Exit::Failed,
        "the daemon answered something else than was asked",
        "compare versions: lifeboat --version, lifeboat server show",
    ))
}

impl Cx<'_> {
    async fn ask(&self, action: Action) -> Result<Answer, Failure> {
        self.client.perform(&action).await.map_err(|error| match error {
            ClientError::Refused(refusal) => wish::refused(&action, refusal).into(),
            ClientError::Unreachable { .. } | ClientError::Lost { .. } | ClientError::Protocol { .. } => {
                error.into()
            }
        })
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
        match self.ask(action).await? {
            Answer::Job(job) if wait.detach && !job.state.is_final() => {
                eprintln!(
                    "the job carries on; follow it with: lifeboat job follow {}",
                    job.id
                );
                self.print(&job, || format!("{}\n", job.id))
            }
            Answer::Job(job) => self.follow(job, done).await,
            _ => {
                eprintln!("{done}");
                Ok(Exit::Done)
            }
        }
    }

    async fn follow(&self, job: lifeboat_engine::records::Job, done: &str) -> Done {
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
        let Answer::Vms(vms) = self.ask(Action::ListVms).await? else {
            return strange();
        };
        Ok(vms)
    }

    async fn vm(&self, vm: &str) -> Result<VmView, Failure> {
        let Answer::Vm(view) = self.ask(Action::ShowVm { vm: name(vm) }).await? else {
            return strange();
        };
        Ok(*view)
    }

    /// People know VMs by name, jobs and events by UUID.
    async fn names(&self) -> Result<Names, Failure> {
        Ok(self
            .vms()
            .await?
            .into_iter()
            .map(|v| (v.spec.uuid, v.spec.name))
            .collect())
    }
}

/// Writes data to standard output.
pub(crate) fn write_out(bytes: &[u8]) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as `head` does.
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
            cx.print(&view, || show::vm(&view, &cx.zone))
        }
        Vm::Start { vm, wait } => {
            cx.act(Action::StartVm { vm: name(vm) }, *wait, &format!("{vm} runs"))
                .await
        }
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
            let Answer::Picture(png) = cx.ask(Action::Screenshot { vm: name(vm) }).await? else {
                return strange();
            };
            if file == "-" {
                return write_out(&png);
            }
            std::fs::write(file, &png).map_err(|e| Failure::io(&format!("write {file}"), &e))?;
            eprintln!("saved {file}, {}", units::size(png.len() as u64));
            Ok(Exit::Done)
        }
    }
}

async fn replication(cx: &Cx<'_>, command: &Replication) -> Done {
    match command {
        Replication::Enable(enable) => {
            let done = format!(
                "{0} is set up for replication to {1}; start it with: lifeboat replication start {0}",
                enable.vm, enable.to
            );
            cx.act(enable_action(enable), enable.wait, &done).await
        }
        Replication::Start(t) => {
            cx.act(
                Action::StartReplication { vm: name(&t.vm) },
                t.wait,
                &format!("{} is replicating", t.vm),
            )
            .await
        }
        Replication::Status { vm: None } => {
            let mut vms = cx.vms().await?;
            vms.retain(|v| v.replication.is_some());
            cx.print(&vms, || show::status(&vms, &cx.zone))
        }
        Replication::Status { vm: Some(vm) } => {
            let view = cx.vm(vm).await?;
            cx.print(&view, || show::replication(&view, &cx.zone))
        }
        Replication::Suspend(t) => {
            let done = format!(
                "replication of {0} is paused; resume it with: lifeboat replication resume {0}",
                t.vm
            );
            cx.act(Action::SuspendReplication { vm: name(&t.vm) }, t.wait, &done)
                .await
        }
        Replication::Resume(t) => {
            cx.act(
                Action::ResumeReplication { vm: name(&t.vm) },
                t.wait,
                &format!("replication of {} is resumed", t.vm),
            )
            .await
        }
        Replication::Now(t) => {
            cx.act(
                Action::ReplicateNow { vm: name(&t.vm) },
                t.wait,
                &format!("{} was replicated", t.vm),
            )
            .await
        }
        Replication::Remove(t) => {
            let done = format!(
                "{} is no longer replicated by this host; the other host was not told",
                t.vm
            );
            cx.act(Action::RemoveReplication { vm: name(&t.vm) }, t.wait, &done)
                .await
        }
    }
}

fn enable_action(enable: &Enable) -> Action {
    Action::EnableReplication {
        vm: name(&enable.vm),
        settings: ReplicationSettings {
            peer: enable.to.clone(),
            interval_s: enable.interval,
            history: enable.history,
            point_spacing_s: enable.point_spacing,
            any_point_window_s: enable.any_point,
            disks: enable.disks.clone(),
            compression: !enable.no_compression,
        },
    }
}

async fn failover(cx: &Cx<'_>, command: &Failover) -> Done {
    match command {
        Failover::Start {
            vm,
            point,
            at,
            no_start,
            wait,
        } => {
            let point = match (point, at) {
                (Some(id), _) => PointSelector::Id(id.clone()),
                (None, Some(text)) => {
                    let at = units::past(text, &Zoned::now().with_time_zone(cx.zone.clone()));
                    let at = at.map_err(|e| Failure::new(Exit::Usage, format!("--at: {e}"), ""))?;
                    eprintln!(
                        "bringing {vm} up as it was at {} or just before",
                        units::instant(at, &cx.zone)
                    );
                    PointSelector::At(at)
                }
                (None, None) => PointSelector::Latest,
            };
            let done =
                format!("look at it, then: lifeboat failover commit {vm}, or lifeboat failover revert {vm}");
            cx.act(
                Action::InitiateFailover {
                    vm: name(vm),
                    point,
                    start: !no_start,
                },
                *wait,
                &done,
            )
            .await
        }
        Failover::Revert { vm, force, wait } => {
            let done = format!("every recovery point of {vm} is as it was");
            cx.act(
                Action::RevertFailover {
                    vm: name(vm),
                    force: *force,
                },
                *wait,
                &done,
            )
            .await
        }
        Failover::Commit(t) => {
            // Committing leaves the power as it is: whoever thinks of users wants to know that nothing runs.
            let done = match cx.vm(&t.vm).await?.power {
                PowerState::Off => format!(
                    "{0} lives on this host now, and is off; start it with: lifeboat vm start {0}",
                    t.vm
                ),
                PowerState::Running | PowerState::Paused | PowerState::Stalled => {
                    format!("{} lives on this host now", t.vm)
                }
            };
            cx.act(Action::CommitFailover { vm: name(&t.vm) }, t.wait, &done)
                .await
        }
    }
}

async fn job(cx: &Cx<'_>, command: &Job) -> Done {
    match command {
        Job::List => {
            let Answer::Jobs(jobs) = cx.ask(Action::ListJobs).await? else {
                return strange();
            };
            let names = cx.names().await?;
            cx.print(&jobs, || show::jobs(&jobs, &names, &cx.zone))
        }
        Job::Show { job } => {
            let Answer::Job(job) = cx.ask(Action::ShowJob { job: *job }).await? else {
                return strange();
            };
            let names = cx.names().await?;
            cx.print(&job, || show::job(&job, &names, &cx.zone))
        }
        Job::Cancel { job } => {
            cx.ask(Action::CancelJob { job: *job }).await?;
            eprintln!("job {job} is being cancelled");
            Ok(Exit::Done)
        }
        Job::Follow { job } => {
            let Answer::Job(job) = cx.ask(Action::ShowJob { job: *job }).await? else {
                return strange();
            };
            cx.follow(job, "").await
        }
    }
}

async fn authorization(cx: &Cx<'_>, command: &Authorization) -> Done {
    let wait = Wait {
        detach: false,
        follow: true,
    };
    match command {
        Authorization::Add {
            primary,
            location,
            trust_group,
        } => {
            let entry = AuthorizationEntry {
                primary: primary.clone(),
                storage_location: location.to_string(),
                trust_group: trust_group.clone(),
            };
            let done = format!("{primary} may replicate to this host, into {location}");
            cx.act(Action::AddAuthorization { entry }, wait, &done).await
        }
        Authorization::List => {
            let Answer::Entries(entries) = cx.ask(Action::ListAuthorization).await? else {
                return strange();
            };
            cx.print(&entries, || show::entries(&entries))
        }
        Authorization::Remove { primary } => {
            let done = format!("{primary} may no longer replicate to this host; its replicas stay");
            cx.act(
                Action::RemoveAuthorization {
                    primary: primary.clone(),
                },
                wait,
                &done,
            )
            .await
        }
    }
}

async fn server(cx: &Cx<'_>, command: &Server) -> Done {
    match command {
        Server::Show => {
            let Answer::Server(view) = cx.ask(Action::ShowServer).await? else {
                return strange();
            };
            cx.print(&view, || show::server(&view))
        }
        Server::Set { replica } => {
            let settings = ServerSettings {
                enabled: *replica == Switch::On,
            };
            let done = if settings.enabled {
                "this host takes replicas"
            } else {
                "this host takes no replicas"
            };
            cx.act(
                Action::SetServer { settings },
                Wait {
                    detach: false,
                    follow: true,
                },
                done,
            )
            .await
        }
    }
}
