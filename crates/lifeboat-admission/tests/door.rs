//! The door with real sockets: what becomes of connections, their tasks and the log in a flood.

#![allow(clippy::unwrap_used, reason = "test support")]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifeboat_admission::{Cap, Door, Ending, Level, Notice, Place, Places, Stage};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const WRONG: Notice = Notice {
    level: Level::Warn,
    what: "wrong password",
};

fn places() -> Places {
    let cap = Cap { total: 4, each: 2 };
    Places {
        silent: cap,
        handshaking: cap,
        strangers: cap,
        known: cap,
    }
}

struct Running {
    door: Arc<Door>,
    address: SocketAddr,
    places: mpsc::UnboundedReceiver<Arc<Place>>,
    tasks: TaskTracker,
    task: tokio::task::JoinHandle<()>,
}

/// A door whose connections do nothing until they are dropped.
async fn start() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Door::new("test", places());
    let (tell, told) = mpsc::unbounded_channel();
    let ending = Ending::new(CancellationToken::new(), Duration::ZERO);
    let tasks = ending.tasks.clone();
    let running = door.clone();
    let task = tokio::spawn(async move {
        let handle = |stream: TcpStream, place: Arc<Place>| {
            let tell = tell.clone();
            async move {
                tell.send(place).unwrap();
                let _stream = stream;
                std::future::pending::<()>().await;
            }
        };
        running.serve(listener, Stage::Silent, ending, handle).await;
    });
    Running {
        door,
        address,
        places: told,
        tasks,
        task,
    }
}

async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let with = text.lines().filter(|line| line.contains(part));
        with.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn the_oldest_stranger_of_the_address_with_most_ends_and_a_known_caller_stays() {
    let mut server = start().await;
    let friend = connect(9, server.address).await;
    let place = server.places.recv().await.unwrap();
    place.known("alpha").unwrap();
    drop(place);
    let mut flood = Vec::new();
    for n in 0..100 {
        flood.push(connect(2 + n % 3, server.address).await);
        // Told before it is dropped, so that each is seen to come.
        drop(server.places.recv().await.unwrap());
    }
    let youngest = flood.split_off(96);
    for stream in &mut flood {
        assert!(closed(stream).await);
    }
    assert_eq!(server.tasks.len(), 4 + 1, "tasks end with their connections");
    assert!(
        friend
            .try_read(&mut [0])
            .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    );
    server.task.abort();
    drop(youngest);
}

#[tokio::test]
async fn a_flood_is_a_line_at_once_and_a_line_a_minute() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // Of this thread, which all of this test's tasks run on.
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut server = start().await;
    let _stream = connect(2, server.address).await;
    let place = server.places.recv().await.unwrap();
    for n in 0..813 {
        place.note(WRONG, &format!("attempt {n}"));
    }
    let lines = log.lines("wrong password");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("test: wrong password: attempt 0"),
        "{lines:?}"
    );
    assert!(lines[0].contains("from=127.0.0.2:"), "{lines:?}");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    // The door looks at what was counted.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let lines = log.lines("more in the last minute");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("812 more") && lines[0].contains("127.0.0.2"),
        "{lines:?}"
    );
    server.task.abort();
    drop(server.door);
}
