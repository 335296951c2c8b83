//! Has VMs shown while there is a watch, so that the feed tells what is not in their records. What is compared and told is the
//! observer's; nothing is waited for that hangs. What happens to guests is seen by `lookout`.

use crate::host::lists::LISTED;
use crate::host::observe::INTERVAL;
use crate::host::{Handle, Host};
use crate::work::message::Message;
use futures_util::future::join_all;
use lifeboat_model::VmId;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// For how long VMs that are to be looked at are collected: one whose record changes again and again is looked at once.
const COLLECTED: Duration = Duration::from_millis(250);

/// Has VMs shown while there is a watch, so that what is shown beside their records is compared: those that are due, soon; and every
/// one at each interval, because health follows from the time, and stores, disks and keys say nothing by themselves.
pub(super) async fn look_again(host: Weak<Host>) {
    let Some(looks) = host.upgrade().map(|h| h.changes.looks()) else {
        return;
    };
    let mut round = Instant::now();
    loop {
        let Some(watched) = host.upgrade().map(|h| h.changes.is_watched()) else {
            return;
        };
        if watched {
            // What comes first of the two; both are looked for below.
            let _ = tokio::time::timeout_at(round, looks.wanted.notified()).await;
            tokio::time::sleep(COLLECTED).await;
        } else {
            looks.wanted.notified().await;
            round = Instant::now();
        }
        let due = looks.take();
        let Some(host) = host.upgrade().filter(|h| h.changes.is_watched()) else {
            continue;
        };
        let every = Instant::now() >= round;
        if every {
            round = Instant::now() + INTERVAL;
        }
        let wanted = |vm: &VmId| every || due.contains(vm);
        let handles: Vec<Handle> = host.with_actors(|actors| {
            let found = actors.iter().filter(|(vm, _)| wanted(vm));
            found.map(|(_, handle)| handle.clone()).collect()
        });
        drop(host);
        join_all(handles.into_iter().map(show)).await;
    }
}

/// Has a VM shown. One that is busy is shown later.
async fn show(handle: Handle) {
    let (reply, shown) = oneshot::channel();
    let asked = async {
        if handle.mailbox.send(Message::View(reply)).await.is_ok() {
            // An actor that ends has nothing to show.
            let _ = shown.await;
        }
    };
    // Without an answer within this time the next round tries again.
    let _ = tokio::time::timeout(LISTED, asked).await;
}
