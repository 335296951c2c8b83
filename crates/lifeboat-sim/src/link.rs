//! Links between the hosts: each call is answered by the peer's engine in a task of the peer, so that either side can
//! die alone. Links are cut, also in the middle of a body, and answers get lost.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use lifeboat_engine::Engine;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::link::{
    KeyJudge, LinkError, LogAddress, LogReceipt, NoAnswer, OtherKey, PeerHandler, PeerIdentity, PeerLink,
    PeerRefusal, PeerReply, PeerRequest,
};
use lifeboat_model::{Fingerprint, VmId};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::gate::{Fault, Injected};
use crate::port::Port;

/// How long an answer is waited for on a connection that is open and mute.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes handed on at once.
const CHUNK: usize = 4096;

type Chunk = Option<std::io::Result<Bytes>>;

/// The key with this number of a host.
pub(crate) fn key_of(host: usize, number: u8) -> Fingerprint {
    let mut digest = [number; 32];
    digest[0] = u8::try_from(host).unwrap_or(u8::MAX);
    Fingerprint::new(digest)
}

/// A refusal as the caller gets it: that of a key is the transport's.
fn refused(peer: &str, refusal: PeerRefusal) -> LinkError {
    if matches!(refusal, PeerRefusal::OtherKey { .. }) {
        LinkError::Untrusted {
            peer: peer.into(),
            detail: refusal.to_string(),
            hint: refusal.hint(),
        }
    } else {
        LinkError::Refused(refusal)
    }
}

fn away(peer: &str, why: &str) -> LinkError {
    LinkError::Unreachable {
        peer: peer.into(),
        detail: why.into(),
        late: false,
    }
}

impl Port {
    fn pair(&self, target: usize) -> (usize, usize) {
        (self.host.min(target), self.host.max(target))
    }

    fn is_mute(&self, target: usize) -> bool {
        let pair = self.pair(target);
        let mutes = self.shared.mutes.lock().unwrap_or_else(PoisonError::into_inner);
        mutes.contains(&pair) || self.shared.state().hosts[target].frozen
    }

    async fn until_cut(&self, target: usize) {
        let pair = self.pair(target);
        let mut cuts = self.shared.cuts.subscribe();
        // The sender lives as long as the world.
        let _ = cuts.wait_for(|c| c.contains(&pair)).await;
    }

    /// Who shows itself at a host's address, and as whom this host shows itself.
    fn identity_of(&self, host: usize) -> PeerIdentity {
        let s = self.shared.state();
        let its = &s.hosts[host];
        let address = its.address.parse().ok().filter(|_| its.address_certified);
        PeerIdentity {
            names: vec![its.name.clone()],
            addresses: address.into_iter().collect(),
            key: Some(key_of(host, if its.impostor { u8::MAX } else { its.key })),
        }
    }

    /// Whether this host may talk to who answers there.
    fn judged(&self, peer: &str, vm: Option<VmId>, target: usize) -> Result<(), LinkError> {
        let judges = self.shared.judges.lock().unwrap_or_else(PoisonError::into_inner);
        let judge = judges[self.host].clone();
        drop(judges);
        let Some(judge) = judge else { return Ok(()) };
        judge
            .judge(peer, vm, &self.identity_of(target))
            .map_err(|OtherKey(note)| LinkError::Untrusted {
                peer: peer.into(),
                detail: note.text,
                hint: note.hint,
            })
    }

    async fn reach(&self, peer: &str) -> Result<(usize, Arc<Engine>, PeerIdentity), LinkError> {
        let name = peer.split(':').next().unwrap_or_default();
        let (target, identity) = {
            let s = self.shared.state();
            let target = s
                .hosts
                .iter()
                .position(|h| h.name == name || !name.is_empty() && h.address == name);
            drop(s);
            (target, self.identity_of(self.host))
        };
        let target = target.ok_or_else(|| away(peer, "no such host"))?;
        let cut = self.shared.cuts.borrow().contains(&self.pair(target));
        let engine = self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner)[target].clone();
        if !cut && engine.is_some() && self.is_mute(target) {
            tokio::time::sleep(PATIENCE).await;
            return Err(LinkError::Unreachable {
                peer: peer.into(),
                detail: "no answer in time".into(),
                late: true,
            });
        }
        match engine {
            Some(engine) if !cut => Ok((target, engine, identity)),
            _ => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(away(peer, "no answer"))
            }
        }
    }

    fn answering<T>(&self, target: usize, task: &JoinHandle<T>) {
        let mut all = self
            .shared
            .answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all[target].retain(|t| !t.is_finished());
        all[target].push(task.abort_handle());
    }

    /// Whether the answer gets lost before it arrives.
    async fn answered(&self, fault: Option<Fault>) -> bool {
        if fault == Some(Fault::CrashAfter) {
            self.die().await;
        }
        let mut s = self.shared.state();
        let lost = s.lose_replies[self.host] > 0;
        s.lose_replies[self.host] = s.lose_replies[self.host].saturating_sub(1);
        if lost {
            s.trouble_at = self.shared.now().0;
        }
        lost || fault == Some(Fault::FailAfter)
    }

    async fn pump(&self, target: usize, mut body: ByteStream, to: mpsc::Sender<Chunk>) -> bool {
        while let Some(piece) = body.next().await {
            let Ok(bytes) = piece else { return false };
            for at in (0..bytes.len()).step_by(CHUNK) {
                let chunk = bytes.slice(at..bytes.len().min(at + CHUNK));
                {
                    let mut s = self.shared.state();
                    if let Some(left) = s.cut_after[self.host].as_mut() {
                        if *left == 0 {
                            s.cut_after[self.host] = None;
                            s.trouble_at = self.shared.now().0;
                            drop(s);
                            let pair = self.pair(target);
                            self.shared.cuts.send_modify(|c| {
                                c.insert(pair);
                            });
                            return false;
                        }
                        *left = left.saturating_sub(1);
                    }
                }
                if to.send(Some(Ok(chunk))).await.is_err() {
                    // The peer has answered already and reads no more.
                    std::future::pending::<()>().await;
                }
            }
        }
        let _ = to.send(None).await;
        true
    }
}

fn received(rx: mpsc::Receiver<Chunk>) -> ByteStream {
    Box::pin(stream::unfold(Some(rx), |rx| async {
        let mut rx = rx?;
        match rx.recv().await {
            Some(Some(chunk)) => Some((chunk, Some(rx))),
            Some(None) => None,
            None => Some((Err(std::io::ErrorKind::ConnectionReset.into()), None)),
        }
    }))
}

impl Port {
    /// A control call; where it fails, whether the peer was reached.
    async fn called(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, (LinkError, bool)> {
        let fault = self.enter("link.call").await;
        if fault == Some(Fault::Fail) {
            return Err((LinkError::injected("link.call"), false));
        }
        let (target, engine, identity) = self.reach(peer).await.map_err(|e| (e, false))?;
        self.judged(peer, request.vm(), target).map_err(|e| (e, true))?;
        let answered = self.answer_of(peer, target, engine, identity, request, fault);
        answered.await.map_err(|e| (e, true))
    }

    async fn answer_of(
        &self,
        peer: &str,
        target: usize,
        engine: Arc<Engine>,
        identity: PeerIdentity,
        request: PeerRequest,
        fault: Option<Fault>,
    ) -> Result<PeerReply, LinkError> {
        if self.shared.state().hosts[target].mute {
            std::future::pending::<()>().await;
        }
        let mut task = tokio::spawn(async move { engine.call(&identity, request).await });
        self.answering(target, &task);
        let reply = tokio::select! {
            biased;
            reply = &mut task => reply.map_err(|_| away(peer, "the connection was closed"))?,
            () = self.until_cut(target) => return Err(away(peer, "the connection was cut")),
        };
        if self.answered(fault).await {
            return Err(away(peer, "the answer was lost"));
        }
        let reply = match &mut self.shared.state().lies {
            Some(lies) if lies.host == target => lies.reply(reply),
            Some(_) | None => reply,
        };
        if let PeerReply::Refused(refusal) = reply {
            Err(refused(peer, refusal))
        } else {
            Ok(reply)
        }
    }
}

#[async_trait]
impl PeerLink for Port {
    fn judged_by(&self, judge: Arc<dyn KeyJudge>) {
        let mut judges = self.shared.judges.lock().unwrap_or_else(PoisonError::into_inner);
        judges[self.host] = Some(judge);
    }

    async fn call(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, LinkError> {
        self.called(peer, request).await.map_err(|(e, _)| e)
    }

    async fn ask(&self, peer: &str, request: PeerRequest, patience: Duration) -> Result<PeerReply, NoAnswer> {
        match tokio::time::timeout(patience, self.called(peer, request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err((e, false))) => Err(NoAnswer::Unreachable {
                detail: e.to_string(),
            }),
            Ok(Err((e, true))) => Err(NoAnswer::Unanswered {
                detail: e.to_string(),
            }),
            Err(_) => Err(NoAnswer::Unanswered {
                detail: format!("no answer within {patience:?}"),
            }),
        }
    }

    async fn send(&self, peer: &str, address: LogAddress, body: ByteStream) -> Result<LogReceipt, LinkError> {
        let fault = self.enter("link.send").await;
        if fault == Some(Fault::Fail) {
            return Err(LinkError::injected("link.send"));
        }
        let (target, engine, identity) = self.reach(peer).await?;
        let (LogAddress::Delta { vm, .. } | LogAddress::Bulk { vm }) = address;
        self.judged(peer, Some(vm), target)?;
        let (tx, rx) = mpsc::channel(1);
        let task = tokio::spawn(async move { engine.receive(&identity, address, received(rx)).await });
        self.answering(target, &task);
        let pump = self.pump(target, body, tx);
        let both = async {
            futures_util::pin_mut!(pump);
            let mut task = task;
            tokio::select! {
                biased;
                answer = &mut task => answer.ok(),
                whole = &mut pump => if whole { task.await.ok() } else { None },
            }
        };
        let answer: Option<Result<LogReceipt, PeerRefusal>> = tokio::select! {
            biased;
            answer = both => answer,
            () = self.until_cut(target) => None,
        };
        let answer = answer.ok_or_else(|| away(peer, "the connection broke"))?;
        if self.answered(fault).await {
            return Err(away(peer, "the answer was lost"));
        }
        let answer = match &mut self.shared.state().lies {
            Some(lies) if lies.host == target => answer.map(|receipt| lies.receipt(receipt)),
            Some(_) | None => answer,
        };
        answer.map_err(|refusal| refused(peer, refusal))
    }
}
