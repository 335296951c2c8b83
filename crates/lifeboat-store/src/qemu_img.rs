//! Running `qemu-img` as a child that dies with the operation. What it may open is spelled out by the caller.

use std::process::Stdio;

use camino::Utf8Path;
use lifeboat_engine::ports::store::StoreError;
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::Result;

/// Says that the caller no longer waits for the operation: its other end is dropped together with the caller's future.
#[derive(Clone)]
pub(crate) struct Cancel(watch::Receiver<()>);

impl Cancel {
    /// A pair; dropping the first cancels.
    pub(crate) fn new() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }
}

impl Cancel {
    /// Refuses to go on when the caller no longer waits.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.has_changed() {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Io {
                what: "the caller no longer waits for the operation".to_owned(),
                source: std::io::ErrorKind::Interrupted.into(),
            }),
        }
    }
}

/// Runs it from a blocking thread and waits for its end; `on` is the image an error is about.
pub(crate) fn run(args: &[&str], on: &Utf8Path, cancel: &Cancel) -> Result<()> {
    let mut cancelled = cancel.0.clone();
    let io = |source: std::io::Error| StoreError::Io {
        what: format!("run qemu-img {} on {on}: {source}", args.first().unwrap_or(&"")),
        source,
    };
    // The program does the input and output: until it ends, this thread waits for no disk.
    crate::watch::rest();
    let output = Handle::current().block_on(async {
        let mut child = Command::new("qemu-img")
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stderr = child.stderr.take();
        let ended = async {
            let mut said = Vec::new();
            if let Some(stderr) = &mut stderr {
                tokio::io::AsyncReadExt::read_to_end(stderr, &mut said).await?;
            }
            Ok((child.wait().await?, said))
        };
        let ended = tokio::select! {
            ended = ended => Some(ended),
            _ = cancelled.changed() => None,
        };
        if let Some(ended) = ended {
            return ended;
        }
        // Waited for, so that no writer is left when the next operation starts.
        child.kill().await?;
        Err(std::io::Error::from(std::io::ErrorKind::Interrupted))
    });
    crate::watch::beat();
    let (status, said) = output.map_err(io)?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said.contains(" lock") {
        return Err(StoreError::Busy(on.to_string()));
    }
    if said.contains("No space left") {
        return Err(StoreError::NoSpace(on.parent().unwrap_or(on).to_owned()));
    }
    if said.contains("Input/output error") {
        return Err(StoreError::Failing {
            path: on.to_owned(),
            what: "qemu-img",
            source: std::io::Error::other(said),
        });
    }
    Err(StoreError::Damaged {
        path: on.to_owned(),
        detail: format!("qemu-img: {said}"),
    })
}
