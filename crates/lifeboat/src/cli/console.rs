//! The serial console of a VM on this terminal: bytes from one to the other, nothing understood but the key that leaves it.

use std::io::{IsTerminal, Read};

use lifeboat_engine::action::VmView;
use lifeboat_model::power::PowerState;
use lifeboat_model::shell::argument;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::exit::{Exit, Failure};

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Bridges terminal and console until Ctrl-] or until the console closes.
pub(crate) async fn bridge(view: &VmView) -> Result<Exit, Failure> {
    let name = &view.spec.name;
    if view.power == PowerState::Off {
        return Err(Failure::new(
            Exit::Failed,
            format!("{name} is off"),
            format!("lifeboat vm start {}", argument(name)),
        ));
    }
    let socket = &view.console.socket;
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|e| Failure::io(&format!("open console {socket}"), &e))?;
    eprintln!("console of {name}; leave it with Ctrl-]");
    let _raw = RawTerminal::enter();
    carry(stream).await.map_err(|e| Failure::io("console", &e))?;
    // Raw mode may still be on, hence the carriage returns.
    eprint!("\r\nleft the console of {name}\r\n");
    Ok(Exit::Done)
}

async fn carry(stream: UnixStream) -> std::io::Result<()> {
    let (mut from_vm, mut to_vm) = stream.into_split();
    let (mut keys, mut out) = (keyboard(), tokio::io::stdout());
    let (mut typing, mut buffer) = (true, vec![0; 16 << 10]);
    loop {
        tokio::select! {
            typed = keys.recv(), if typing => match typed {
                Some(bytes) => {
                    let end = bytes.iter().position(|b| *b == ESCAPE);
                    let send = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                    to_vm.write_all(send).await?;
                    if end.is_some() {
                        return Ok(());
                    }
                }
                // Input from a file has ended; what the VM says is still wanted.
                None => typing = false,
            },
            read = from_vm.read(&mut buffer) => {
                let n = read?;
                if n == 0 {
                    return Ok(());
                }
                out.write_all(buffer.get(..n).unwrap_or_default()).await?;
                out.flush().await?;
            }
        }
    }
}

/// A read of the terminal cannot be cancelled, so it has a thread of its own that the end of the process takes along.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (send, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            if send
                .blocking_send(buffer.get(..n).unwrap_or_default().to_vec())
                .is_err()
            {
                break;
            }
        }
    });
    keys
}

/// Passes every key on, Ctrl-C included, until dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Self(None);
        }
        let before = tcgetattr(&stdin).ok();
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            // A terminal that refuses is used as it is.
            let _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
