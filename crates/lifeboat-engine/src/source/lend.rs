//! The primary's help with bit rot on its replica: bytes of its disks as they are now, and a comparison. What it lends is
//! worth nothing by itself; the replica's recorded digests say whether it is right.

use crate::core::Core;
use crate::port::capture::{CaptureError, CaptureSource};
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply, ReadRange};
use crate::source::Done;
use crate::source::SourcePart;
use crate::work::piece::{Work, droppable};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::causes::chain;
use tokio::sync::oneshot;
use tracing::debug;

/// Most ranges of one request.
const MAX_RANGES: usize = 64;

/// Most bytes of one range.
const MAX_LEN: u32 = 64 << 10;

/// A replica that waits for bytes of the disks.
pub(crate) struct Loan {
    ranges: Vec<ReadRange>,
    reply: oneshot::Sender<PeerReply>,
}

/// The disks after something was read from them; none: they have to be put in order first.
pub(crate) struct Lent(pub(crate) Option<Box<dyn CaptureSource>>);

async fn read(source: &dyn CaptureSource, ranges: &[ReadRange]) -> Result<Vec<String>, CaptureError> {
    let view = source.current().await?;
    let mut data = Vec::with_capacity(ranges.len());
    let mut failed = None;
    for range in ranges {
        let disk = source.disks().iter().position(|d| d.id == range.disk);
        let len = disk.and_then(|n| source.disks().get(n)).map_or(0, |d| {
            let there = d.size.saturating_sub(range.offset);
            u32::try_from(there).unwrap_or(u32::MAX).min(range.len)
        });
        let bytes = match disk.filter(|_| len > 0) {
            // A disk that is not replicated any more has nothing to lend.
            None => Ok(bytes::Bytes::new()),
            Some(disk) => view.read(disk, range.offset, len).await,
        };
        match bytes {
            Ok(bytes) => data.push(BASE64_STANDARD.encode(bytes)),
            Err(e) => {
                failed = Some(e);
                break;
            }
        }
    }
    let closed = view.close().await;
    match failed {
        Some(e) => Err(e),
        None => closed.map(|()| data),
    }
}

impl Core {
    /// Such a request is answered by [`Self::lend`], which waits for the disks.
    pub(crate) fn lent_elsewhere(&self) -> PeerRefusal {
        PeerRefusal::Failed {
            host: self.host.config.name.clone(),
            detail: "the disks are read between two pieces of work".into(),
        }
    }
}

impl SourcePart {
    /// A replica asks for bytes. They are read between two pieces of work.
    pub(crate) fn lend(
        &mut self,
        core: &Core,
        peer: &PeerIdentity,
        ranges: Vec<ReadRange>,
        reply: oneshot::Sender<PeerReply>,
    ) {
        let host = core.host.config.name.clone();
        let primary = core.rel.as_ref().is_some_and(|r| r.mode == Mode::Primary);
        let small =
            |r: &ReadRange| r.len <= MAX_LEN && r.len.is_multiple_of(512) && r.offset.is_multiple_of(512);
        let fits = ranges.len() <= MAX_RANGES && ranges.iter().all(small);
        let refused = match core.is_peer(peer) {
            Err(refusal) => Some(refusal),
            Ok(()) if !primary => Some(PeerRefusal::NotNow {
                host,
                detail: "it is not the primary of this VM".into(),
            }),
            Ok(()) if !fits => Some(PeerRefusal::Conflict {
                detail: "more is asked for than one request may".into(),
            }),
            Ok(()) => None,
        };
        match refused {
            // The caller may not wait for the answer any more.
            Some(refusal) => drop(reply.send(PeerReply::Refused(refusal))),
            None => self.loans.push(Loan { ranges, reply }),
        }
    }

    /// Reads for a replica that waits.
    pub(crate) async fn plan_loan(&mut self, core: &Core) -> Option<Work<Done>> {
        let loan = self.loans.pop()?;
        let host = core.host.config.name.clone();
        let own = self.source.take();
        let launch = match &own {
            Some(_) => None,
            None => match core.launch().await {
                Ok(launch) => Some(launch),
                Err(e) => {
                    let refusal = PeerRefusal::Failed {
                        host,
                        detail: e.message,
                    };
                    drop(loan.reply.send(PeerReply::Refused(refusal)));
                    return None;
                }
            },
        };
        let disks = core.rel.as_ref()?.settings.disks.clone();
        let hypervisor = core.hypervisor();
        let opened = launch.is_some();
        Some(droppable(async move {
            let got = async {
                let source = match (own, launch) {
                    (Some(source), _) => source,
                    (None, Some(launch)) => {
                        let source = hypervisor.source(&launch, &disks).await?;
                        source.recover().await?;
                        source
                    }
                    (None, None) => return Err(CaptureError::Gone),
                };
                let data = read(&*source, &loan.ranges).await;
                match (data, opened) {
                    (Ok(data), false) => Ok((data, Some(source))),
                    (data, _) => {
                        let closed = source.close().await;
                        let data = data?;
                        closed.map(|()| (data, None))
                    }
                }
            };
            let (reply, source) = match got.await {
                Ok((data, source)) => (PeerReply::DiskData { data }, source),
                Err(e) => {
                    debug!(error = %e, "nothing lent");
                    let detail = chain(&e);
                    (PeerReply::Refused(PeerRefusal::Failed { host, detail }), None)
                }
            };
            drop(loan.reply.send(reply));
            Done::Lent(Lent(source))
        }))
    }

    /// The disks are free again.
    pub(crate) fn lent(&mut self, lent: Lent) {
        match lent.0 {
            Some(source) => self.source = Some(source),
            None => self.forget(),
        }
    }
}
