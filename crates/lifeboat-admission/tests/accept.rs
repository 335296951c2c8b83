//! The accept loop over a listener that does as it is told, and over a real one: how it goes on when accepting fails, how many
//! connections it has at once, and how it ends.

#![allow(clippy::unwrap_used, reason = "test support")]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifeboat_admission::{AcceptLoop, Ending, Listener, Slot};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What accept(2) comes to, one after the other; with none left it waits. Connections are numbers.
struct Scripted {
    results: tokio::sync::Mutex<mpsc::UnboundedReceiver<io::Result<u32>>>,
}

impl Listener for Scripted {
    type Stream = u32;
    type Address = ();

    async fn accept(&self) -> io::Result<(u32, ())> {
        match self.results.lock().await.recv().await {
            Some(result) => result.map(|number| (number, ())),
            None => std::future::pending().await,
        }
    }
}

fn scripted() -> (mpsc::UnboundedSender<io::Result<u32>>, Scripted) {
    let (tell, results) = mpsc::unbounded_channel();
    let results = tokio::sync::Mutex::new(results);
    (tell, Scripted { results })
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Of this thread, which all tasks of a test run on.
    fn of_this_thread() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, part: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter(|line| line.contains("WARN") && line.contains(part))
            .count()
    }
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_it_pauses_says_so_and_goes_on() {
    let (log, _guard) = Log::of_this_thread();
    let (tell, listener) = scripted();
    for error in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
        tell.send(Err(error.into())).unwrap();
    }
    tell.send(Ok(7)).unwrap();
    let began = Instant::now();
    let (came, mut coming) = mpsc::unbounded_channel();
    let running = AcceptLoop::new("test", 1, Ending::new(CancellationToken::new(), Duration::ZERO));
    let task = tokio::spawn(running.run(listener, move |number, (), slot| {
        let came = came.clone();
        Some(async move {
            came.send(number).unwrap();
            drop(slot);
        })
    }));
    assert_eq!(coming.recv().await, Some(7));
    assert_eq!(began.elapsed(), Duration::from_millis(200), "a pause after each");
    assert_eq!(log.lines("test: a connection cannot be accepted: "), 2);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn it_has_no_more_connections_at_once_than_slots() {
    let (tell, listener) = scripted();
    for number in 0..5 {
        tell.send(Ok(number)).unwrap();
    }
    let (came, mut coming) = mpsc::unbounded_channel::<(u32, Slot)>();
    let running = AcceptLoop::new("test", 2, Ending::new(CancellationToken::new(), Duration::ZERO));
    let task = tokio::spawn(running.run(listener, move |number, (), slot| {
        let came = came.clone();
        // The odd ones are turned away, and take no slot.
        (number % 2 == 0).then_some(async move {
            came.send((number, slot)).unwrap();
            std::future::pending::<()>().await;
        })
    }));
    let (first, second) = (coming.recv().await.unwrap(), coming.recv().await.unwrap());
    assert_eq!((first.0, second.0), (0, 2));
    let none = tokio::time::timeout(Duration::from_secs(60), coming.recv()).await;
    assert!(none.is_err(), "there is no slot");
    drop(first);
    assert_eq!(coming.recv().await.unwrap().0, 4);
    task.abort();
}

/// A port that tells when it is closed.
struct Port {
    listener: TcpListener,
    _closed: DropGuard,
}

impl Listener for Port {
    type Stream = TcpStream;
    type Address = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept().await
    }
}

struct Reading {
    address: SocketAddr,
    ending: Ending,
    closed: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// A loop whose connections end when their callers hang up.
async fn reading(grace: Duration) -> Reading {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closed = CancellationToken::new();
    let port = Port {
        listener,
        _closed: closed.clone().drop_guard(),
    };
    let ending = Ending::new(CancellationToken::new(), grace);
    let running = AcceptLoop::new("test", 8, ending.clone());
    let task = tokio::spawn(running.run(port, |mut stream, _, slot| {
        Some(async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            drop(slot);
        })
    }));
    Reading {
        address,
        ending,
        closed,
        task,
    }
}

impl Reading {
    /// A connection that has its task.
    async fn connect(&self) -> TcpStream {
        let before = self.ending.tasks.len();
        let stream = TcpStream::connect(self.address).await.unwrap();
        while self.ending.tasks.len() == before {
            tokio::task::yield_now().await;
        }
        stream
    }
}

#[tokio::test]
async fn it_closes_the_listener_and_lets_what_is_under_way_end() {
    let (log, _guard) = Log::of_this_thread();
    let server = reading(Duration::from_secs(600)).await;
    let stream = server.connect().await;
    server.ending.stop.cancel();
    server.closed.cancelled().await;
    assert!(!server.task.is_finished(), "a connection is under way");
    drop(stream);
    server.task.await.unwrap();
    assert_eq!(log.lines("did not end in time"), 0);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let (log, _guard) = Log::of_this_thread();
    let server = reading(Duration::from_millis(1)).await;
    let mut stream = server.connect().await;
    server.ending.stop.cancel();
    server.task.await.unwrap();
    assert_eq!(log.lines("test: requests did not end in time and are cut"), 1);
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    server.ending.tasks.wait().await;
}

#[tokio::test]
async fn dropping_it_closes_the_listener_and_leaves_connections_to_themselves() {
    let server = reading(Duration::ZERO).await;
    let stream = server.connect().await;
    server.task.abort();
    server.closed.cancelled().await;
    assert!(server.task.await.unwrap_err().is_cancelled());
    assert_eq!(server.ending.tasks.len(), 1);
    drop(stream);
    server.ending.tasks.close();
    server.ending.tasks.wait().await;
}
