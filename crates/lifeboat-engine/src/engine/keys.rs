//! The action that trusts a key, and calls that are refused by their key.

use crate::contract::{Answer, Refusal, VmRef};
use crate::engine::Engine;
use crate::host::pins::UnknownCaller;
use crate::port::ByteStream;
use crate::port::link::{LogAddress, LogReceipt, PeerIdentity, PeerRefusal, PeerReply, PeerRequest};
use crate::work::message::Message;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Fingerprint, VmId, hint};
use tokio::sync::oneshot;

impl Engine {
    /// A peer's call, if its key is the one that is known.
    pub(crate) async fn call_by_key(&self, peer: &PeerIdentity, request: PeerRequest) -> PeerReply {
        let vm = request.vm();
        if let Err(refusal) = self.host.judge(peer, vm) {
            return PeerReply::Refused(refusal);
        }
        if let PeerRequest::AnnounceKey { vm, next } = request {
            let noted = self.note_announced(peer, vm, next).await;
            return noted.map_or_else(PeerReply::Refused, |()| PeerReply::Accepted);
        }
        let offer = matches!(request, PeerRequest::Offer { .. });
        let reply = self.answer_peer(peer, request).await;
        match (offer, &reply) {
            (false, _) | (true, PeerReply::Refused(_)) => reply,
            // The relationship was made by it: its key is remembered from now on.
            (true, _) => match self.host.judge(peer, vm) {
                Ok(()) => reply,
                Err(refusal) => PeerReply::Refused(refusal),
            },
        }
    }

    /// A peer's log, if its key is the one that is known.
    pub(crate) async fn receive_by_key(
        &self,
        peer: &PeerIdentity,
        address: LogAddress,
        body: ByteStream,
    ) -> Result<LogReceipt, PeerRefusal> {
        let (LogAddress::Delta { vm, .. } | LogAddress::Bulk { vm }) = address;
        self.host.judge(peer, Some(vm))?;
        self.receive_log(peer, address, body).await
    }

    /// Remembers a peer's next key, durably.
    async fn note_announced(
        &self,
        peer: &PeerIdentity,
        vm: VmId,
        next: Option<Fingerprint>,
    ) -> Result<(), PeerRefusal> {
        let host = self.host.config.name.clone();
        let unknown = PeerRefusal::NoReplica { host: host.clone() };
        match self.host.pins.announce(vm, peer, next) {
            Err(UnknownCaller) => return Err(unknown),
            Ok(false) => return Ok(()),
            Ok(true) => self.host.pins.changed.notify_one(),
        }
        self.write_keys(vm).await.map_err(|refusal| PeerRefusal::Failed {
            host,
            detail: refusal.message,
        })
    }

    /// Waits until the catalog has the keys of a VM.
    async fn write_keys(&self, vm: VmId) -> Result<(), Refusal> {
        let handle = self.host.with_actors(|a| a.get(&vm).cloned());
        let (reply, written) = oneshot::channel();
        if let Some(handle) = handle {
            // A mailbox that is closed drops the question, which is the answer.
            let _ = handle.mailbox.send(Message::SaveKeys(Some(reply))).await;
        }
        let gone = || {
            Refusal::new(
                ReturnCode::Unavailable,
                "the daemon is stopping",
                hint::Again::Later,
            )
        };
        written.await.unwrap_or_else(|_| Err(gone()))
    }

    /// An administrator says which key another host has.
    pub(crate) async fn trust_key(
        &self,
        vm: Option<&VmRef>,
        host: &str,
        key: Fingerprint,
    ) -> Result<Answer, Refusal> {
        let only = match vm {
            Some(vm) => Some(self.host.find(vm)?.0),
            None => None,
        };
        let now = self.host.ports.clock.now();
        let changed = self.host.pins.trust(only, host, key, now);
        if changed.is_empty() {
            let shown: String = host.chars().take(80).collect();
            return Err(Refusal::new(
                ReturnCode::FileNotFound,
                format!("no replication names the host \"{shown}\""),
                hint::Look::Status,
            ));
        }
        self.host.pins.changed.notify_one();
        for vm in changed {
            self.write_keys(vm).await?;
            let text = format!("the key {key} of {host} is trusted because an administrator said so");
            self.host.key_event(vm, text.into()).await;
        }
        Ok(Answer::Done)
    }
}
