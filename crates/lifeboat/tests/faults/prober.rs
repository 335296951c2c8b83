//! Asks a daemon all the time whether it is there. Whatever hangs below it, the answer has to come within [`LIMIT`]; not
//! asked is only while the daemon itself is down or stopped.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::host::{Host, request};
use crate::world::{VM, lock};

/// Longest that an answer may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// What the questions of one host brought.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    pub(crate) asked: u64,
    pub(crate) slowest: Duration,
    /// Questions that were not answered in time, in words.
    pub(crate) late: Vec<String>,
}

/// Asks one host three questions side by side, as people do who look what is wrong.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    /// Whether the daemon is expected to be up; an answer that comes when it is not does not count.
    expected: Arc<AtomicBool>,
    answers: Arc<Mutex<Answers>>,
}

impl Prober {
    pub(crate) fn start(host: &Host) -> Self {
        let prober = Self {
            stop: Arc::default(),
            expected: Arc::new(AtomicBool::new(true)),
            answers: Arc::default(),
        };
        let vm = format!("/api/v1/vms/{VM}");
        for path in ["/api/v1/server".to_owned(), "/api/v1/vms".to_owned(), vm] {
            let (stop, expected) = (prober.stop.clone(), prober.expected.clone());
            let answers = prober.answers.clone();
            let (socket, name) = (host.root.join("sock"), host.name);
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if expected.load(Ordering::SeqCst) {
                        ask(&socket, name, &path, &expected, &answers);
                    }
                    std::thread::sleep(Duration::from_millis(150));
                }
            });
        }
        prober
    }

    /// From now on the daemon is up, or it is not and need not answer.
    pub(crate) fn expect(&self, up: bool) {
        self.expected.store(up, Ordering::SeqCst);
    }

    /// What was found since the last time.
    pub(crate) fn take(&self) -> Answers {
        std::mem::take(&mut lock(&self.answers))
    }
}

fn ask(socket: &Path, name: &str, path: &str, expected: &AtomicBool, answers: &Mutex<Answers>) {
    let began = Instant::now();
    let answer = request(socket, "GET", path, LIMIT);
    let took = began.elapsed();
    if !expected.load(Ordering::SeqCst) {
        return;
    }
    let mut answers = lock(answers);
    answers.asked += 1;
    answers.slowest = answers.slowest.max(took);
    match answer {
        Ok((200, _)) => {}
        Ok((status, body)) => answers
            .late
            .push(format!("{name}: {path} answered {status} {body}")),
        Err(error) => answers
            .late
            .push(format!("{name}: {path} not answered in {took:.1?}: {error}")),
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
