//! Work of the primary: the bulk copy, the capture of an instant into a spooled log, and sending it. Plain functions
//! over the ports; the actor decides when they run and what their outcome means. Any of these futures may be dropped
//! at any moment: the next one begins with `settle`, which finds order again from the tracking and the replica's word.

use crate::host::tools::Tools;
use crate::port::ByteStream;
use crate::port::capture::{BlockView, CaptureSource, Extent, Tracking};
use crate::port::link::{
    LinkError, LogAddress, LogReceipt, PeerLink, PeerRefusal, PeerReply, PeerRequest, PrimaryReport,
    ReplicaStatus,
};
use crate::port::spool::SpoolFile;
use crate::record::Sent;
use crate::work::calls::unexpected;
use crate::work::failure::CopyError;
use crate::work::message::Waiting;
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use lifeboat_deltalog::{Consistency, EncodeError, Encoder, Header, LogDisk, LogKind};
use lifeboat_model::{Position, Reading, VmId};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes of one read. Larger ones wait longer for their turn between a guest's own requests.
pub(crate) const READ: u64 = 1 << 20;

/// Reads in flight. More are no faster and cost a MiB each.
pub(crate) const IN_FLIGHT: usize = 4;

/// Encoded bytes handed on at once.
pub(crate) const BATCH: usize = 256 << 10;

/// Room for a batch and the read that fills it.
pub(crate) const ROOM: usize = BATCH + (1 << 20);

/// Disk bytes of one segment of the bulk copy: what an interruption may cost.
pub(crate) const SEGMENT: u64 = 256 << 20;

/// Allocation is asked in pieces of this size, because a larger question holds up guest writes.
const ALLOCATION: u64 = 64 << 20;

/// More changed ranges than this are joined across their gaps: a log holds a bounded number of extents.
const MAX_RANGES: usize = 1 << 18;

/// The relationship's constants during one piece of work.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) vm: VmId,
    pub(crate) peer: String,
    pub(crate) compress: bool,
    /// Position before the first instant of the current generation.
    pub(crate) start: Position,
}

/// Asks the replica where it stands.
pub(crate) async fn status(link: &dyn PeerLink, route: &Route) -> Result<ReplicaStatus, LinkError> {
    match link
        .call(
            &route.peer,
            PeerRequest::Status {
                vm: route.vm,
                report: PrimaryReport::Working,
            },
        )
        .await?
    {
        PeerReply::Status(status) => Ok(status),
        other => Err(unexpected(&route.peer, &other)),
    }
}

/// From where the next cycle goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Changes are recorded since this position.
    pub(crate) record: Position,
    /// The replica stands here: there, or at a later instant, of which the recorded changes are a superset.
    pub(crate) parent: Position,
}

impl Base {
    /// The changes since exactly where the replica stands are recorded.
    pub(crate) fn at(position: Position) -> Self {
        Self {
            record: position,
            parent: position,
        }
    }
}

/// Where the replica stands, and what was sent there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stands {
    pub(crate) durable: Position,
    /// Its disks are not those of one instant.
    pub(crate) partial: bool,
    pub(crate) sent: Option<Sent>,
    /// The last number that was used here.
    pub(crate) last: Position,
}

impl Stands {
    /// Whether a capture of the changes since `base` got there after it was given up here: its log was complete on the
    /// way when its sending was ended, and became durable after the replica had been asked where it stands.
    fn arrived_late(&self, base: Position) -> bool {
        let sent = self.sent.filter(|s| s.since == base && !self.partial);
        sent.is_some_and(|s| s.holds(self.durable, self.last))
    }
}

/// What to do with the tracking that is there, given what the replica has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// Changes since the replica's position are tracked; go on from there.
    Ready(Position),
    /// The interrupted instant arrived: forget the changes before it.
    Arrived { base: Position, next: Position },
    /// The interrupted instant did not arrive: join its changes to those before it.
    Return { base: Position, next: Position },
    /// An instant that was taken back arrived after all. Everything since it is among the changes since `base`, once those
    /// of the interrupted instant `next` are joined to them.
    Late { base: Position, next: Option<Position> },
    /// Nothing tracked fits.
    Lost(String),
}

/// Pure decision of `settle`.
pub(crate) fn settlement(tracking: &Tracking, stands: &Stands) -> Settlement {
    let durable = stands.durable;
    let lost = |what: String| Settlement::Lost(what);
    match tracking {
        Tracking::None => lost("changes are not tracked on this VM's disks".into()),
        Tracking::Lost { disk, reason } => lost(format!("change tracking of disk {disk} is lost: {reason}")),
        Tracking::Since(at) => match at.as_slice() {
            [base] if *base == durable => Settlement::Ready(durable),
            [base, next] if *next == durable => Settlement::Arrived {
                base: *base,
                next: *next,
            },
            [base, next] if *base == durable => Settlement::Return {
                base: *base,
                next: *next,
            },
            [base, next @ ..] if next.len() < 2 && stands.arrived_late(*base) => Settlement::Late {
                base: *base,
                next: next.first().copied(),
            },
            _ => lost(format!(
                "changes are tracked since {}, but the replica stands at {durable}",
                at.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" and ")
            )),
        },
    }
}

/// Brings tracking in order after anything may have happened, and says from where to go on.
pub(crate) async fn settle(source: &dyn CaptureSource, stands: &Stands) -> Result<Base, CopyError> {
    let tracking = source.recover().await?;
    match settlement(&tracking, stands) {
        Settlement::Ready(at) => Ok(Base::at(at)),
        Settlement::Arrived { base, next } => {
            source.acknowledge(base).await?;
            Ok(Base::at(next))
        }
        Settlement::Return { base, next } => {
            source.give_back(base, next).await?;
            Ok(Base::at(base))
        }
        Settlement::Late { base, next } => {
            if let Some(next) = next {
                source.give_back(base, next).await?;
            }
            Ok(Base {
                record: base,
                parent: stands.durable,
            })
        }
        Settlement::Lost(why) => Err(CopyError::Lost {
            why,
            arrived: !stands.durable.is_start(),
        }),
    }
}

/// What a cycle captures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capture {
    /// Changes are recorded since this position.
    pub(crate) record: Position,
    /// The replica stands here, at `record` or at a later instant.
    pub(crate) parent: Position,
    /// The instant's own position.
    pub(crate) next: Position,
    /// What the instant is to guarantee. `Planned`: the VM is off, and this is its last instant here.
    pub(crate) wanted: Consistency,
}

/// A log that is complete in the spool and not yet known to be durable on the replica.
pub(crate) struct Pending {
    pub(crate) source: Box<dyn CaptureSource>,
    pub(crate) spool: Arc<dyn SpoolFile>,
    pub(crate) capture: Capture,
    /// The clocks of this host at the instant; its wall clock's word is the instant itself.
    pub(crate) taken: Reading,
    pub(crate) consistency: Consistency,
}

/// A delivered log.
pub(crate) struct Delivered {
    pub(crate) source: Box<dyn CaptureSource>,
    pub(crate) position: Position,
    /// The clocks of this host at the instant.
    pub(crate) taken: Reading,
    pub(crate) bytes: u64,
    pub(crate) wanted: Consistency,
    pub(crate) consistency: Consistency,
}

/// How a cycle ended.
pub(crate) enum CycleEnd {
    Delivered(Delivered),
    /// The log waits in the spool; the fault is the network's.
    Waiting(Pending, LinkError),
    /// The log waits in the spool until the replica has applied what it has.
    HeldBack(Pending, Waiting),
    /// Begin again with `settle`.
    Failed(CopyError),
}

/// One cycle: instant, log, send, acknowledge.
pub(crate) async fn cycle(
    tools: Tools,
    route: Route,
    source: Box<dyn CaptureSource>,
    capture: Capture,
) -> CycleEnd {
    let captured = capture_and_send(&tools, &route, &*source, &capture).await;
    let (spool, header, taken, sent) = match captured {
        Ok(x) => x,
        Err(e) => return CycleEnd::Failed(e),
    };
    let pending = Pending {
        source,
        spool,
        capture,
        taken,
        consistency: header.consistency,
    };
    conclude(pending, sent).await
}

/// Sends a waiting log again, from where the replica has it.
pub(crate) async fn resend(tools: Tools, route: Route, pending: Pending) -> CycleEnd {
    let asked = tools
        .link
        .call(
            &route.peer,
            PeerRequest::LogOffset {
                vm: route.vm,
                position: pending.capture.next,
            },
        )
        .await;
    let offset = match asked {
        Ok(PeerReply::Offset { bytes }) => bytes.min(pending.spool.len()),
        Ok(other) => return CycleEnd::Failed(unexpected(&route.peer, &other).into()),
        Err(LinkError::Refused(r)) => return CycleEnd::Failed(LinkError::Refused(r).into()),
        Err(e) => return CycleEnd::Waiting(pending, e),
    };
    let sent = send_spool(&*tools.link, &route, &pending.spool, pending.capture.next, offset).await;
    conclude(pending, sent).await
}

async fn conclude(pending: Pending, sent: Result<(), LinkError>) -> CycleEnd {
    match sent {
        Ok(()) => match pending.source.acknowledge(pending.capture.record).await {
            Ok(()) => CycleEnd::Delivered(Delivered {
                source: pending.source,
                position: pending.capture.next,
                taken: pending.taken,
                bytes: pending.spool.len(),
                wanted: pending.capture.wanted,
                consistency: pending.consistency,
            }),
            Err(e) => CycleEnd::Failed(e.into()),
        },
        Err(LinkError::Refused(PeerRefusal::Backlog { logs, bytes, .. })) => {
            CycleEnd::HeldBack(pending, Waiting { logs, bytes })
        }
        Err(LinkError::Refused(r)) => CycleEnd::Failed(LinkError::Refused(r).into()),
        Err(e) => CycleEnd::Waiting(pending, e),
    }
}

async fn capture_and_send(
    tools: &Tools,
    route: &Route,
    source: &dyn CaptureSource,
    capture: &Capture,
) -> Result<(Arc<dyn SpoolFile>, Header, Reading, Result<(), LinkError>), CopyError> {
    let spool = tools.spool.create(route.vm, capture.next).await?;
    let planned = capture.wanted == Consistency::Planned;
    let asked = if planned {
        Consistency::Crash
    } else {
        capture.wanted
    };
    let prepared = source.prepare(capture.record, capture.next, asked).await?;
    // Before the instant, not after: what is reported as safe must be.
    let taken = tools.clock.reading();
    let frozen = prepared.take().await?;
    let header = Header {
        vm: route.vm,
        kind: LogKind::Delta,
        position: capture.next,
        parent: capture.parent,
        instant: taken.wall,
        consistency: if planned {
            capture.wanted
        } else {
            frozen.consistency
        },
        disks: source.disks().to_vec(),
    };
    let produce = async {
        let written = write_delta(&*frozen.view, &header, route.compress, &*spool).await;
        spool.finish(written.is_ok());
        // At once, not when the WAN has taken it: while the view exists the guest's first writes cost a copy.
        let closed = frozen.view.close().await;
        written.and(closed.map_err(CopyError::from))
    };
    let send = send_spool(&*tools.link, route, &spool, capture.next, 0);
    let both = async {
        futures_util::pin_mut!(produce, send);
        match future::select(produce, send).await {
            future::Either::Left((Ok(()), send)) => Ok(send.await),
            future::Either::Left((Err(e), _)) => Err(e),
            // Refused before all was read: there is no use in reading the rest, unless it is only too early.
            future::Either::Right((Err(LinkError::Refused(r)), _))
                if !matches!(r, PeerRefusal::Backlog { .. }) =>
            {
                Err(LinkError::Refused(r).into())
            }
            future::Either::Right((sent, produce)) => produce.await.map(|()| sent),
        }
    };
    let sent = both.await?;
    Ok((spool, header, taken, sent))
}

async fn send_spool(
    link: &dyn PeerLink,
    route: &Route,
    spool: &Arc<dyn SpoolFile>,
    position: Position,
    offset: u64,
) -> Result<(), LinkError> {
    let address = LogAddress::Delta {
        vm: route.vm,
        position,
        offset,
    };
    let receipt = link.send(&route.peer, address, spool.reader(offset)).await?;
    confirmed(receipt, position, &route.peer)
}

/// Whether a log is durable on the other side. What else a receipt says is not believed: the sender knows what it sent.
pub(crate) fn confirmed(receipt: LogReceipt, position: Position, peer: &str) -> Result<(), LinkError> {
    match receipt {
        LogReceipt::Delta(received) if received.durable == position => Ok(()),
        LogReceipt::Delta(received) => Err(LinkError::Refused(PeerRefusal::OutOfSequence {
            have: received.durable,
        })),
        LogReceipt::Bulk(_) => Err(LinkError::Protocol {
            peer: peer.to_owned(),
            detail: "a receipt for another log".into(),
        }),
    }
}

async fn write_delta(
    view: &dyn BlockView,
    header: &Header,
    compress: bool,
    to: &dyn SpoolFile,
) -> Result<(), CopyError> {
    let mut out = Vec::with_capacity(ROOM);
    let mut encoder = Encoder::new(header, compress, &mut out)?;
    for (index, disk) in (0u16..).zip(&header.disks) {
        let changed = joined(view.changed(usize::from(index)).await?, MAX_RANGES);
        let mut reads = stream::iter(pieces(changed, disk.size))
            .map(|piece| read_piece(view, index, piece))
            .buffered(IN_FLIGHT);
        while let Some(read) = reads.next().await {
            encode(&mut encoder, index, read?, &mut out)?;
            if out.len() >= BATCH {
                to.append(full(&mut out)).await?;
            }
        }
    }
    encoder.finish(&mut out);
    to.append(Bytes::from(out)).await?;
    Ok(())
}

/// What was encoded so far; encoding goes on in fresh memory.
pub(crate) fn full(out: &mut Vec<u8>) -> Bytes {
    Bytes::from(std::mem::replace(out, Vec::with_capacity(ROOM)))
}

/// A range that was read, or is known to be zero.
pub(crate) enum Piece {
    Data(u64, Bytes),
    Zero(u64, u64),
}

pub(crate) async fn read_piece(view: &dyn BlockView, disk: u16, e: Extent) -> Result<Piece, CopyError> {
    if e.zero {
        return Ok(Piece::Zero(e.offset, e.len));
    }
    let len = u32::try_from(e.len).unwrap_or(u32::MAX);
    Ok(Piece::Data(
        e.offset,
        view.read(usize::from(disk), e.offset, len).await?,
    ))
}

pub(crate) fn encode(
    encoder: &mut Encoder,
    disk: u16,
    piece: Piece,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match piece {
        Piece::Data(offset, data) => encoder.data(disk, offset, &data, out),
        Piece::Zero(offset, len) => encoder.zero(disk, offset, len, out),
    }
}

/// Ranges cut to reads that end on multiples of `READ`, and to the size of the disk.
pub(crate) fn pieces(ranges: Vec<Extent>, size: u64) -> impl Iterator<Item = Extent> {
    ranges.into_iter().flat_map(move |e| {
        let end = e.offset.saturating_add(e.len).min(size);
        let mut at = e.offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let stop = if e.zero {
                end
            } else {
                end.min((at / READ + 1) * READ)
            };
            let piece = Extent {
                offset: at,
                len: stop - at,
                zero: e.zero,
            };
            at = stop;
            Some(piece)
        })
    })
}

/// At most `max` ranges, joined across their smallest gaps.
fn joined(mut ranges: Vec<Extent>, max: usize) -> Vec<Extent> {
    let mut gap = 4096;
    while ranges.len() > max {
        let mut fewer: Vec<Extent> = Vec::with_capacity(ranges.len() / 2);
        for e in ranges {
            match fewer.last_mut() {
                Some(last) if e.offset - (last.offset + last.len) <= gap && !last.zero && !e.zero => {
                    last.len = e.offset + e.len - last.offset;
                }
                _ => fewer.push(e),
            }
        }
        ranges = fewer;
        gap *= 4;
    }
    ranges
}

/// Bulk-copies what of `disk` the replica does not have yet. `progress` is told the offset that is durable there.
pub(crate) async fn copy_disk(
    tools: &Tools,
    route: &Route,
    view: &dyn BlockView,
    disk: (usize, &LogDisk),
    from: u64,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), CopyError> {
    let (index, disk) = disk;
    let mut at = from;
    while at < disk.size {
        let end = disk.size.min(at + SEGMENT);
        let send = |body| {
            tools
                .link
                .send(&route.peer, LogAddress::Bulk { vm: route.vm }, body)
        };
        let sent = segment(tools, route, view, (index, disk), at..end, send).await?;
        match sent {
            // More than was sent may have been there from an interrupted segment.
            LogReceipt::Bulk(done) if done.disk == disk.id && done.done >= end => {
                at = done.done.min(disk.size);
            }
            LogReceipt::Bulk(_) | LogReceipt::Delta(_) => {
                let detail = "the segment was not confirmed".into();
                return Err(LinkError::Protocol {
                    peer: route.peer.clone(),
                    detail,
                }
                .into());
            }
        }
        progress(at);
    }
    Ok(())
}

/// Reads a range of a disk as a log and hands it on while it is read.
pub(crate) async fn segment<T, E, F>(
    tools: &Tools,
    route: &Route,
    view: &dyn BlockView,
    (index, disk): (usize, &LogDisk),
    range: std::ops::Range<u64>,
    to: impl FnOnce(ByteStream) -> F,
) -> Result<T, CopyError>
where
    F: Future<Output = Result<T, E>>,
    CopyError: From<E>,
{
    let (tx, rx) = mpsc::channel::<std::io::Result<Bytes>>(2);
    let body: ByteStream = Box::pin(stream::unfold(rx, |mut rx| async {
        rx.recv().await.map(|x| (x, rx))
    }));
    let header = Header {
        vm: route.vm,
        kind: LogKind::Bulk,
        position: route.start,
        parent: route.start,
        instant: tools.clock.now(),
        consistency: Consistency::Crash,
        disks: vec![disk.clone()],
    };
    let produce = async {
        let written = write_segment(view, index, &header, route.compress, range, &tx).await;
        if let Err(e) = &written {
            // The body must not end as if it were whole.
            let _ = tx.send(Err(std::io::Error::other(e.to_string()))).await;
        }
        drop(tx);
        written
    };
    // A closed channel means that the other end failed, and its error says why.
    match future::join(produce, to(body)).await {
        (Err(e), _) => Err(e),
        (Ok(()), Err(e)) => Err(e.into()),
        (Ok(()), Ok(done)) => Ok(done),
    }
}

async fn write_segment(
    view: &dyn BlockView,
    disk: usize,
    header: &Header,
    compress: bool,
    range: std::ops::Range<u64>,
    to: &mpsc::Sender<std::io::Result<Bytes>>,
) -> Result<(), CopyError> {
    let mut out = Vec::with_capacity(ROOM);
    let mut encoder = Encoder::new(header, compress, &mut out)?;
    let mut at = range.start;
    while at < range.end {
        let len = ALLOCATION.min(range.end - at);
        let map = view.allocation(disk, at, len).await?;
        let index = u16::try_from(disk).unwrap_or(u16::MAX);
        let mut reads = stream::iter(pieces(map, at + len))
            .map(|p| read_piece(view, index, p))
            .buffered(IN_FLIGHT);
        while let Some(read) = reads.next().await {
            // The segment's log has one disk, whatever its number in the VM is.
            encode(&mut encoder, 0, read?, &mut out)?;
            if out.len() >= BATCH && to.send(Ok(full(&mut out))).await.is_err() {
                return Ok(());
            }
        }
        at += len;
    }
    encoder.finish(&mut out);
    let _ = to.send(Ok(Bytes::from(out))).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::{DiskId, GenerationId};
    use uuid::Uuid;

    fn at(sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(7)), sequence)
    }

    #[test]
    fn tracking_is_settled_by_what_the_replica_has() {
        let table = [
            (Tracking::Since(vec![at(3)]), at(3), Settlement::Ready(at(3))),
            (
                Tracking::Since(vec![at(3), at(5)]),
                at(5),
                Settlement::Arrived {
                    base: at(3),
                    next: at(5),
                },
            ),
            (
                Tracking::Since(vec![at(3), at(5)]),
                at(3),
                Settlement::Return {
                    base: at(3),
                    next: at(5),
                },
            ),
        ];
        let stands = |durable| Stands {
            durable,
            partial: false,
            sent: None,
            last: at(9),
        };
        for (tracking, durable, want) in table {
            assert_eq!(settlement(&tracking, &stands(durable)), want);
        }
        let lost = Tracking::Lost {
            disk: DiskId::new("a").unwrap(),
            reason: "killed".into(),
        };
        for (tracking, durable) in [
            (Tracking::None, at(0)),
            (lost, at(3)),
            (Tracking::Since(vec![at(3)]), at(2)),
            (Tracking::Since(vec![at(3)]), at(4)),
            (Tracking::Since(vec![at(3), at(5)]), at(4)),
            (Tracking::Since(vec![]), at(0)),
        ] {
            assert!(
                matches!(settlement(&tracking, &stands(durable)), Settlement::Lost(_)),
                "{tracking:?} {durable}"
            );
        }
    }

    #[test]
    fn a_capture_that_arrives_after_it_was_taken_back_is_gone_on_from() {
        let since = |s: &[u64]| Tracking::Since(s.iter().map(|n| at(*n)).collect());
        // Captures 5 to 8 were begun while changes were recorded since 3.
        let stands = |durable| Stands {
            durable: at(durable),
            partial: false,
            sent: Some(Sent {
                since: at(3),
                first: at(5),
            }),
            last: at(8),
        };
        let late = |next: Option<u64>| Settlement::Late {
            base: at(3),
            next: next.map(at),
        };
        assert_eq!(settlement(&since(&[3]), &stands(5)), late(None));
        assert_eq!(settlement(&since(&[3]), &stands(8)), late(None));
        assert_eq!(settlement(&since(&[3, 8]), &stands(6)), late(Some(8)));
        let pieces = Stands {
            partial: true,
            ..stands(6)
        };
        for (tracking, stands) in [
            // A number that no capture since 3 had: of before it, or of another generation of this disk.
            (since(&[3]), stands(4)),
            (since(&[3]), stands(9)),
            // The disks are those of another time than the record of captures.
            (since(&[1]), stands(6)),
            (since(&[4, 8]), stands(6)),
            (since(&[3, 7, 8]), stands(6)),
            // A resync fragment is no instant.
            (since(&[3]), pieces),
        ] {
            assert!(
                matches!(settlement(&tracking, &stands), Settlement::Lost(_)),
                "{tracking:?} {stands:?}"
            );
        }
    }

    #[test]
    fn reads_are_cut_at_round_offsets_and_at_the_end_of_the_disk() {
        let e = |offset, len, zero| Extent { offset, len, zero };
        let cut: Vec<_> = pieces(
            vec![e(READ - 512, 1024, false), e(3 * READ, 9 * READ, true)],
            5 * READ,
        )
        .collect();
        assert_eq!(
            cut,
            [
                e(READ - 512, 512, false),
                e(READ, 512, false),
                e(3 * READ, 2 * READ, true)
            ]
        );
    }

    #[test]
    fn too_many_ranges_are_joined_without_losing_one() {
        let ranges: Vec<_> = (0..1000)
            .map(|i| Extent {
                offset: i * 65536,
                len: 4096,
                zero: false,
            })
            .collect();
        let few = joined(ranges.clone(), 10);
        assert!(few.len() <= 10);
        for r in ranges {
            assert!(
                few.iter()
                    .any(|f| f.offset <= r.offset && f.offset + f.len >= r.offset + r.len)
            );
        }
    }
}
