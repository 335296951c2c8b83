//! The way between two hosts: a TCP proxy that can be cut, or go silent without an end, as a middle box or a lost route does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Open,
    /// Connections end, new ones are refused.
    Cut,
    /// They are held, both ways, and neither side gets an error: a half-open connection.
    Mute,
    /// What the caller says arrives, the answers are held.
    MuteAnswers,
}

struct State {
    way: Way,
    open: Vec<TcpStream>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while bytes of this direction are held.
    fn wait_open(&self, answers: bool) {
        let held = |s: &mut State| match s.way {
            Way::Open | Way::Cut => false,
            Way::Mute => true,
            Way::MuteAnswers => answers,
        };
        drop(
            self.changed
                .wait_while(self.lock(), held)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

/// The proxy. Ends with the process.
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
}

impl Link {
    /// Leads from a port of its own on loopback to this one.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                way: Way::Open,
                open: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                // A refused caller and a host that is down look the same to it.
                let _ = join(&accepting, caller, target);
            }
        });
        Ok(Self { port, shared })
    }

    /// The port that callers use.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what becomes of the bytes, those on their way included.
    pub fn set(&self, way: Way) {
        let mut state = self.shared.lock();
        state.way = way;
        if way == Way::Cut {
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

fn join(shared: &Arc<Shared>, caller: TcpStream, target: u16) -> std::io::Result<()> {
    if shared.lock().way == Way::Cut {
        return Ok(());
    }
    let host = TcpStream::connect(("127.0.0.1", target))?;
    for stream in [&caller, &host] {
        stream.set_nodelay(true)?;
    }
    {
        let mut state = shared.lock();
        state.open.push(caller.try_clone()?);
        state.open.push(host.try_clone()?);
    }
    let ways = [
        (caller.try_clone()?, host.try_clone()?, false),
        (host, caller, true),
    ];
    for (from, to, answers) in ways {
        let shared = shared.clone();
        std::thread::spawn(move || pump(&shared, from, to, answers));
    }
    Ok(())
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream, answers: bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        shared.wait_open(answers);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_held_arrives_later_and_what_is_cut_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::to(listener.local_addr().unwrap().port()).unwrap();
        let mut caller = TcpStream::connect(("127.0.0.1", link.port())).unwrap();
        let (mut host, _) = listener.accept().unwrap();
        let mut byte = [0];

        link.set(Way::MuteAnswers);
        caller.write_all(b"a").unwrap();
        host.read_exact(&mut byte).unwrap();
        host.write_all(b"b").unwrap();
        caller.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(caller.read(&mut byte).is_err());
        link.set(Way::Open);
        caller.set_read_timeout(None).unwrap();
        caller.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b");

        link.set(Way::Cut);
        assert_eq!(caller.read(&mut byte).unwrap(), 0);
    }
}
