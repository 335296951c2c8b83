//! A peer that is authenticated and means harm, as the side that is called: it answers our client with what no Lifeboat would,
//! over real sockets and TLS. Each call ends within its bounds, takes no more than they allow, says which host it was and what
//! was wrong, and leaves nothing behind that the next call could meet. What our server does with hostile clients is in
//! `hostile.rs`.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Site, body, bulk_receipt, delta, hello, raw_server};
use futures_util::future::join_all;
use lifeboat_engine::ports::link::{LinkError, PeerLink, PeerReply, PeerRequest};
use lifeboat_link::{Link, Timing};
use lifeboat_model::words::{TEXT_MAX, is_obeyed};
use lifeboat_tls::CertificateFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Most bytes of an answer that the client may take in.
const DOCUMENT_MAX: u64 = 8 << 20;
/// What the sockets of both sides may hold beyond that: the kernel's limits for one connection on the loopback.
const SOCKETS: u64 = 40 << 20;

/// How a play ends, when nothing is repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The connection stays open and nothing more comes.
    Stay,
    /// TLS and the connection are closed in order.
    Close,
    /// The connection is closed without a word of TLS.
    Cut,
}

/// What a call has to come to.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// An answer.
    Answer,
    /// `LinkError::Protocol` with this in it.
    Protocol(&'static str),
    /// `LinkError::Unreachable` with this in it.
    Unreachable(&'static str),
    /// An error of whatever kind.
    Error,
}

/// What the peer answers a request with.
#[derive(Clone, Debug)]
struct Play {
    name: &'static str,
    /// Said once.
    head: Vec<u8>,
    /// Said again and again until nobody listens; empty: nothing is.
    again: Vec<u8>,
    /// Between two of those.
    pause: Duration,
    end: End,
    want: Want,
    /// For an answer.
    patience: Duration,
}

/// Enough for whatever ends by itself.
const LONG: Duration = Duration::from_secs(60);
/// For what only ends because nobody waits for ever.
const SHORT: Duration = Duration::from_secs(2);

fn play(name: &'static str, head: impl Into<Vec<u8>>, want: Want) -> Play {
    Play {
        name,
        head: head.into(),
        again: Vec::new(),
        pause: Duration::ZERO,
        end: End::Close,
        want,
        patience: LONG,
    }
}

impl Play {
    fn again(self, again: impl Into<Vec<u8>>) -> Self {
        let again = again.into();
        Self { again, ..self }
    }

    fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }

    fn slowly(self) -> Self {
        Self {
            pause: SHORT / 40,
            patience: SHORT,
            ..self
        }
    }
}

/// An answer with these lines before its body.
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ok(body: &str) -> String {
    answer("200 OK", "Content-Type: application/json\r\n", body)
}

fn hello_text() -> String {
    serde_json::to_string(&hello()).unwrap()
}

/// Answers that are too much, or never whole.
fn without_end() -> Vec<Play> {
    let large = Want::Protocol("its answer is larger than 8388608 bytes");
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 1 << 16], b"\r\n"].concat();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = vec![b'a'; 1 << 16];
    vec![
        play(
            "a length beyond any bound",
            "HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n",
            large,
        )
        .again(long.clone()),
        play(
            "a length that is no number",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            Want::Error,
        )
        .again(long.clone()),
        play("chunks without end", chunked, large).again(chunk),
        play(
            "a chunk of the largest size",
            format!("{chunked}ffffffffffffffff\r\n"),
            Want::Error,
        )
        .again(long.clone()),
        play(
            "an extension of a chunk without end",
            format!("{chunked}1;"),
            Want::Error,
        )
        .again(long.clone()),
        play("trailers without end", format!("{chunked}0\r\n"), Want::Error).again("X-A: b\r\n".repeat(1000)),
        play(
            "a body until the end that never comes",
            "HTTP/1.0 200 OK\r\n\r\n",
            large,
        )
        .again(long.clone()),
        play(
            "headers without end",
            "HTTP/1.1 200 OK\r\n",
            Want::Protocol("head"),
        )
        .again("X-A: b\r\n".repeat(1000)),
        play(
            "a header without end",
            "HTTP/1.1 200 OK\r\nX-A: ",
            Want::Protocol("head"),
        )
        .again(long.clone()),
        play("a status without end", "HTTP/1.1 200 ", Want::Protocol("")).again(long),
    ]
}

/// Answers that take their time. Whatever of them comes is no reason to go on waiting.
fn slow() -> Vec<Play> {
    let late = Want::Unreachable("no answer within 2s");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    vec![
        play("interim answers without end", "", late)
            .again("HTTP/1.1 100 Continue\r\n\r\n")
            .slowly(),
        play("a head byte by byte", "HTTP/1.1 200 OK\r\nX-A: ", late)
            .again("a")
            .slowly(),
        play(
            "a body byte by byte",
            "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
            late,
        )
        .again(" ")
        .slowly(),
        play("chunks byte by byte", chunked, late)
            .again("1\r\n \r\n")
            .slowly(),
        Play {
            patience: SHORT,
            ..play("nothing", "", late).ending(End::Stay)
        },
        Play {
            patience: SHORT,
            ..play(
                "half an answer",
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
                late,
            )
            .ending(End::Stay)
        },
    ]
}

/// Documents that are no answer to what was asked.
fn documents() -> Vec<Play> {
    vec![
        play(
            "an answer to something else",
            ok("{\"reply\":\"accepted\"}"),
            Want::Protocol("does not fit the request"),
        ),
        play(
            "a reply of the future",
            ok("{\"reply\":\"moon\"}"),
            Want::Protocol("not understood"),
        ),
        play("no document", ok(""), Want::Protocol("not understood")),
        play(
            "a text that is none",
            ok("{\"reply\":\"hello\",\"host\":5,\"version\":\"1\"}"),
            Want::Protocol("not understood"),
        ),
        play(
            "nested documents",
            ok(&"[".repeat(4 << 20)),
            Want::Protocol("not understood"),
        ),
        play(
            "a nested field",
            ok(&format!(
                "{{\"reply\":\"hello\",\"x\":{}",
                "{\"x\":".repeat(1 << 20)
            )),
            Want::Protocol("not understood"),
        ),
        play(
            "a name without end",
            ok(&format!("{{\"reply\":\"{}", "x".repeat(8_000_000))),
            Want::Protocol("not understood"),
        ),
        play(
            "a number beyond all",
            ok("{\"reply\":\"offset\",\"bytes\":18446744073709551616}"),
            Want::Protocol("not understood"),
        ),
        play(
            "what a terminal obeys as an error",
            answer(
                "400 Bad Request",
                "",
                "{\"error\":\"\\u001b[2J\\u0000\\u202eno\"}",
            ),
            Want::Protocol("no"),
        ),
        play(
            "an error without end",
            answer(
                "400 Bad Request",
                "",
                &format!("{{\"error\":\"{}\"}}", "x".repeat(8_000_000)),
            ),
            Want::Protocol("[cut]"),
        ),
    ]
}

/// Answers that are no answers.
fn of_something_else() -> Vec<Play> {
    let hello = hello_text();
    let typed = |kind: &str| answer("200 OK", &format!("Content-Type: {kind}\r\n"), &hello);
    let mut all = vec![
        play("another protocol", "SSH-2.0-OpenSSH_9.2\r\n", Want::Protocol("")),
        play(
            "frames of HTTP/2",
            [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec(),
            Want::Protocol(""),
        ),
        play(
            "another type",
            typed("text/html"),
            Want::Protocol("\"text/html\" instead of application/json"),
        ),
        play(
            "a type that a terminal obeys",
            typed("text/\u{9b}31m"),
            Want::Protocol("instead of application/json"),
        ),
        play(
            "an endless type",
            typed(&"x".repeat(100_000)),
            Want::Protocol("instead of application/json"),
        ),
        play(
            "packed",
            answer("200 OK", "Content-Encoding: gzip\r\n", "\u{1f}"),
            Want::Protocol("encoded (\"gzip\")"),
        ),
        play(
            "an upgrade",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            Want::Error,
        ),
        play(
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\n{}   ",
            Want::Error,
        ),
    ];
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        // The place that it leads to is filled in by the test.
        let text = answer(
            status,
            "Location: https://ELSEWHERE/lifeboat/1/control\r\n",
            &hello,
        );
        all.push(play(
            "a way to somewhere else",
            text,
            Want::Protocol("which this protocol does not use"),
        ));
    }
    all
}

/// How connections end.
fn ends() -> Vec<Play> {
    let hello = hello_text();
    let unlimited = format!("HTTP/1.0 200 OK\r\n\r\n{hello}");
    let cut = Want::Unreachable("the answer was cut");
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{";
    vec![
        play("an end before any answer", "", Want::Unreachable("")),
        play("a cut before any answer", "", Want::Unreachable("")).ending(End::Cut),
        play("an end in the head", "HTTP/1.1 200 OK\r\nContent-", Want::Error),
        play("an end in the body", half, cut),
        play("a cut in the body", half, cut).ending(End::Cut),
        play("a cut behind the answer", ok(&hello), Want::Answer).ending(End::Cut),
        play(
            "an answer until the end of the connection",
            unlimited.clone(),
            Want::Answer,
        ),
        // Whoever is between the two can cut; only the peer can end TLS.
        play("an answer until a cut", unlimited, cut).ending(End::Cut),
    ]
}

/// Answers that are ones, with more in them than there should be.
fn too_much() -> Vec<Play> {
    let hello = hello_text();
    vec![
        play(
            "one answer too many",
            format!("{}{}", ok(&hello), ok("{\"reply\":\"accepted\"}")),
            Want::Answer,
        )
        .ending(End::Stay),
        play(
            "a text of eight MiB",
            ok(&format!(
                "{{\"reply\":\"hello\",\"version\":\"1\",\"host\":\"{}\"}}",
                "x".repeat(8_000_000)
            )),
            Want::Answer,
        ),
        play(
            "a text that a terminal obeys",
            ok("{\"reply\":\"hello\",\"version\":\"\\u001b]0;x\\u0007\",\"host\":\"\\u0000\\u2028b\"}"),
            Want::Answer,
        ),
    ]
}

/// The peer: plays what it is told to, or answers as it should.
struct Stage {
    address: u16,
    now: Arc<Mutex<Option<Play>>>,
    /// Bytes that it got rid of since it was told to play.
    said: Arc<AtomicU64>,
    /// Counts the plays that are over.
    over: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    async fn new(config: &CertificateFiles) -> Self {
        let (listener, acceptor) = raw_server(config).await;
        let address = listener.local_addr().unwrap().port();
        let (now, said) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let (ended, over) = watch::channel(0);
        let (script, counter) = (now.clone(), said.clone());
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (script, counter, ended) = (script.clone(), counter.clone(), ended.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(async move { perform(tcp, acceptor, script, counter, ended).await });
            }
        });
        Self {
            address,
            now,
            said,
            over,
            task,
        }
    }

    fn peer(&self) -> String {
        format!("localhost:{}", self.address)
    }

    fn set(&self, play: Option<Play>) {
        self.said.store(0, Ordering::SeqCst);
        *self.now.lock().unwrap() = play;
    }
}

/// One connection: requests are answered with the play, or as they should be.
async fn perform(
    tcp: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    script: Arc<Mutex<Option<Play>>>,
    said: Arc<AtomicU64>,
    ended: watch::Sender<usize>,
) {
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    let (mut from, mut to) = tokio::io::split(tls);
    let mut some = vec![0; 1 << 16];
    loop {
        let mut asked = Vec::new();
        // A request of these tests ends with its document, or with the last chunk of its log.
        while !(asked.ends_with(b"}") || asked.ends_with(b"0\r\n\r\n")) {
            match from.read(&mut some).await {
                Ok(n) if n > 0 => asked.extend_from_slice(&some[..n]),
                _ => return,
            }
        }
        let play = script.lock().unwrap().clone();
        let Some(play) = play else {
            let honest = if asked.starts_with(b"POST") {
                hello_text()
            } else {
                serde_json::to_string(&bulk_receipt()).unwrap()
            };
            to.write_all(ok(&honest).as_bytes()).await.unwrap();
            continue;
        };
        let speak = async {
            let mut next = &play.head;
            loop {
                for piece in next.chunks(1 << 14) {
                    to.write_all(piece).await?;
                    to.flush().await?;
                    said.fetch_add(piece.len() as u64, Ordering::SeqCst);
                }
                if play.again.is_empty() {
                    break;
                }
                tokio::time::sleep(play.pause).await;
                next = &play.again;
            }
            if play.end == End::Close {
                to.shutdown().await?;
            }
            std::io::Result::Ok(())
        };
        let hung_up = async { while from.read(&mut some).await.is_ok_and(|n| n > 0) {} };
        if play.end == End::Cut {
            let _ = speak.await;
        } else {
            tokio::select! {
                () = hung_up => {}
                () = async { let _ = speak.await; std::future::pending().await } => {}
            }
        }
        ended.send_modify(|n| *n += 1);
        return;
    }
}

/// What people are shown: which host, what, no more than a text of another host may have, and nothing a terminal obeys.
fn shown(name: &str, peer: &str, error: &LinkError) {
    let text = error.to_string();
    assert!(text.contains(peer), "{name}: {text}");
    assert!(text.len() <= TEXT_MAX + 300, "{name}: {} bytes", text.len());
    assert!(!text.chars().any(is_obeyed), "{name}: {text:?}");
}

fn judge(play: &Play, peer: &str, got: &Result<PeerReply, LinkError>) {
    let name = play.name;
    let fits = match (play.want, got) {
        (Want::Answer, Ok(PeerReply::Hello { host, version })) => {
            host.len() <= TEXT_MAX && !format!("{host}{version}").chars().any(is_obeyed)
        }
        (Want::Protocol(part), Err(e @ LinkError::Protocol { .. }))
        | (Want::Unreachable(part), Err(e @ LinkError::Unreachable { .. })) => e.to_string().contains(part),
        (Want::Error, Err(_)) => true,
        _ => false,
    };
    assert!(fits, "{name}: {:?}, and not {:.300?}", play.want, got);
    if let Err(e) = got {
        shown(name, peer, e);
    }
}

/// Plays one after the other, to a call, to a log and to a question. Afterwards the peer answers as it should, and the same
/// link, with whatever it has kept, hears that.
async fn all(plays: Vec<Play>) {
    let site = Site::new();
    let mut stage = Stage::new(&site.host(&["localhost"])).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("localhost:{}", elsewhere.local_addr().unwrap().port());
    let led = Arc::new(AtomicUsize::new(0));
    let seen = led.clone();
    let watch = tokio::spawn(async move {
        while elsewhere.accept().await.is_ok() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let own = site.host(&["a"]);
    let peer = stage.peer();
    for mut play in plays {
        let text = String::from_utf8_lossy(&play.head).replace("ELSEWHERE", &place);
        if text.contains(&place) {
            play.head = text.into_bytes();
        }
        let timing = Timing {
            call: play.patience,
            stall: play.patience,
            ..Timing::default()
        };
        let link = Link::with_timing(&own, timing).unwrap();
        for way in ["call", "log", "question"] {
            // A replica that stores a log says a byte now and then, for as long as its disk takes.
            if way == "log" && !play.pause.is_zero() {
                continue;
            }
            stage.set(Some(play.clone()));
            match way {
                "call" => judge(&play, &peer, &link.call(&peer, PeerRequest::Hello).await),
                "log" => {
                    let log = body(vec![Ok(Bytes::from_static(b"log"))]);
                    let e = link.send(&peer, delta(), log).await;
                    let e = e.expect_err(play.name);
                    shown(play.name, &peer, &e);
                }
                _ => {
                    let asked = link.ask(&peer, PeerRequest::Hello, play.patience).await;
                    assert_eq!(
                        asked.is_ok(),
                        matches!(play.want, Want::Answer),
                        "{}: {asked:.300?}",
                        play.name
                    );
                }
            }
            let said = stage.said.load(Ordering::SeqCst);
            assert!(
                said <= DOCUMENT_MAX + SOCKETS,
                "{} ({way}): {said} bytes",
                play.name
            );
            stage.set(None);
            let next = link.call(&peer, PeerRequest::Hello).await;
            assert_eq!(next.unwrap(), hello(), "{} ({way})", play.name);
        }
        drop(link);
    }
    // Nobody is kept: every connection of a play has ended by our hanging up, or by its own end.
    let over = *stage.over.borrow_and_update();
    assert!(over > 0);
    assert_eq!(led.load(Ordering::SeqCst), 0, "nobody is led elsewhere");
    watch.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_ends_by_our_bounds() {
    all(without_end()).await;
}

/// All at once: each is nothing but waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_byte_by_byte_is_not_waited_for() {
    join_all(slow().into_iter().map(|play| all(vec![play]))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_none_is_said_and_followed_nowhere() {
    all(of_something_else()).await;
    all(documents()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_connection_ends_the_next_call_is_answered() {
    all(ends()).await;
    all(too_much()).await;
}

#[tokio::test]
async fn another_host_of_the_same_authority_is_not_the_one_that_was_meant() {
    let site = Site::new();
    let own = site.host(&["a"]);
    for shown_as in [
        site.host(&["other.example.org"]),
        Site::new().host(&["localhost"]),
    ] {
        let stage = Stage::new(&shown_as).await;
        stage.set(None);
        let link = Link::new(&own).unwrap();
        let peer = stage.peer();
        let e = link.call(&peer, PeerRequest::Hello).await.unwrap_err();
        assert!(matches!(e, LinkError::Untrusted { .. }), "{e}");
        shown("another host", &peer, &e);
        let log = body(vec![Ok(Bytes::from_static(b"log"))]);
        let e = link.send(&peer, delta(), log).await.unwrap_err();
        assert!(matches!(e, LinkError::Untrusted { .. }), "{e}");
        assert_eq!(stage.said.load(Ordering::SeqCst), 0);
    }
}
