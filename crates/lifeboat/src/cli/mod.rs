//! The command line: words into actions, answers into text. It decides nothing about VMs; a program
//! uses the REST API and loses nothing. Standard output is data, standard error is talk.

mod args;
mod cert;
mod console;
mod exit;
mod follow;
mod hint;
mod refusal;
mod run;
mod secret;
mod show;
mod units;
mod user;

use std::process::ExitCode;

use camino::Utf8Path;
use clap::{CommandFactory, FromArgMatches};
use lifeboat_model::causes::chain;
use lifeboat_rest::Client;
use lifeboat_tls::CredentialsError;
use lifeboat_wbem::RemoteError;
use lifeboat_wbem::users::UsersError;

use crate::config::{Config, Log, LogFormat};
use args::{Cli, Command};
use exit::{Exit, Failure};
use refusal::Typed;

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let mut definition = Cli::command();
    let matches = definition.get_matches_mut();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut definition).exit(),
    };
    let result = match &cli.command {
        Command::Serve { config } => serve(config),
        Command::Cert(command) => cert::run(command, cli.output),
        Command::User(command) => user::run(command, cli.output),
        _ => runtime(false).and_then(|runtime| {
            let typed = Typed::read(&definition, &matches);
            let result = runtime.block_on(run::run(&Client::new(&cli.socket), &cli, typed));
            // A thread may still sit in a read of the terminal.
            runtime.shutdown_background();
            result
        }),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn runtime(threads: bool) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = if threads {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder
        .enable_all()
        .build()
        .map_err(|e| Failure::io("start the runtime", &e))
}

/// What repairs a daemon that does not start, where a command does.
fn repair(error: &anyhow::Error) -> &'static str {
    let causes = || error.chain();
    let no_users = causes().any(|e| {
        matches!(e.downcast_ref(), Some(UsersError::Missing(_)))
            || matches!(e.downcast_ref(), Some(RemoteError::Users(UsersError::Missing(_))))
    });
    let no_certificates = causes().any(|e| {
        matches!(e.downcast_ref(), Some(CredentialsError::Read { .. }))
            || matches!(
                e.downcast_ref(),
                Some(RemoteError::Tls(CredentialsError::Read { .. }))
            )
    });
    if no_users {
        user::NO_USERS
    } else if no_certificates {
        "make certificates with: lifeboat cert init, lifeboat cert issue"
    } else {
        ""
    }
}

fn serve(path: &Utf8Path) -> Result<Exit, Failure> {
    let wrong = |e: String| Failure::new(Exit::Failed, e, "");
    let config = Config::load(path).map_err(|e| wrong(e.to_string()))?;
    log_to_stderr(&config.log).map_err(wrong)?;
    crate::rights::give_up().map_err(|e| wrong(format!("cannot give up rights that are not needed: {e}")))?;
    runtime(true)?
        .block_on(crate::serve::run(config))
        .map_err(|e| Failure::new(Exit::Failed, chain(e.as_ref()), repair(&e)))?;
    Ok(Exit::Done)
}

fn log_to_stderr(log: &Log) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&log.level).map_err(|e| e.to_string())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|e| e.to_string())
}
