//! Capture of a VM's disks: dirty bitmaps with the semantics of QEMU's persistent ones, and frozen instants.
//! Every instant is noted as the truth for its position.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_engine::ports::capture::{
    BlockView, CaptureError, CaptureSource, Extent, Instant, Prepared, Tracking,
};
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_model::{Position, VmId};
use std::collections::BTreeSet;

use crate::disk::{Content, Image, Tracked, bytes_of, cover, extents};
use crate::port::Port;
use crate::state::{State, Truth, adopted, process};

/// The disks of a VM, open for capture.
pub(crate) struct Source(Disks);

/// Which disks, and of which process.
#[derive(Clone)]
struct Disks {
    port: Port,
    vm: VmId,
    keys: Vec<String>,
    disks: Vec<LogDisk>,
    live: bool,
    run: u64,
}

impl Source {
    pub(crate) fn open(
        port: &Port,
        vm: VmId,
        keys: Vec<String>,
        disks: Vec<LogDisk>,
        live: bool,
        run: u64,
    ) -> Self {
        if !live {
            process(&mut port.shared.state(), port.host, vm).held += 1;
        }
        Self(Disks {
            port: port.clone(),
            vm,
            keys,
            disks,
            live,
            run,
        })
    }
}

impl Disks {
    async fn run<R: Send>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State, usize) -> Result<R, CaptureError> + Send,
    ) -> Result<R, CaptureError> {
        self.port
            .run(name, |s, h| {
                let p = process(s, h, self.vm);
                if self.live && (p.run != self.run || p.power == PowerState::Off) {
                    return Err(CaptureError::Gone);
                }
                effect(s, h)
            })
            .await
    }

    fn images<'s>(&self, s: &'s mut State, h: usize) -> Vec<&'s mut Image> {
        let wanted = &self.keys;
        let mut found: Vec<_> = s.hosts[h]
            .images
            .iter_mut()
            .filter(|(k, _)| wanted.contains(k))
            .collect();
        found.sort_by_key(|(k, _)| wanted.iter().position(|w| w == *k));
        found.into_iter().map(|(_, i)| i).collect()
    }

    /// Nothing is written to the images below a replica, not even a dirty bitmap.
    fn mine(&self, s: &mut State, h: usize) {
        if let Some(key) = self.keys.iter().find(|k| adopted(s, h, k)) {
            s.violation(format!("tracking on {key}, which is below a replica"));
        }
    }

    /// Whether nothing but changes since `base` is recorded, on every disk.
    fn fit(&self, s: &mut State, h: usize, base: Position) -> Result<(), CaptureError> {
        let fit = |i: &&mut Image| matches!(i.tracked.as_slice(), [t] if t.since == base && t.recording && !t.broken);
        if self.images(s, h).iter().all(fit) {
            return Ok(());
        }
        s.violation(format!(
            "an instant was taken from {base}, which is not what is tracked"
        ));
        Err(refused("instant"))
    }

    /// Whether others use the disks now.
    fn free(&self, s: &State, h: usize) -> Result<(), CaptureError> {
        match s.hosts[h].occupied.get(&self.vm) {
            Some(by) => Err(CaptureError::Busy(by.clone())),
            None => Ok(()),
        }
    }

    /// A number that is in the process's graph until its view is closed, or `recover` removes it.
    fn place(&self, s: &mut State, h: usize) -> u64 {
        s.next_view += 1;
        let id = s.next_view;
        process(s, h, self.vm).views.insert(id);
        id
    }

    fn view(&self, id: u64, frozen: Option<(Vec<Content>, Vec<BTreeSet<u64>>)>) -> View {
        View {
            port: self.port.clone(),
            vm: self.vm,
            id,
            keys: self.keys.clone(),
            frozen,
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let disks = &self.0;
        if !disks.live {
            let mut s = disks.port.shared.state();
            let p = process(&mut s, disks.port.host, disks.vm);
            p.held = p.held.saturating_sub(1);
            for image in disks.images(&mut s, disks.port.host) {
                image.closed();
            }
        }
    }
}

fn refused(what: &str) -> CaptureError {
    CaptureError::Block {
        what: what.into(),
        detail: "refused".into(),
    }
}

#[async_trait]
impl CaptureSource for Source {
    fn disks(&self) -> &[LogDisk] {
        &self.0.disks
    }

    fn live(&self) -> bool {
        self.0.live
    }

    async fn recover(&self) -> Result<Tracking, CaptureError> {
        self.0
            .run("capture.recover", |s, h| {
                process(s, h, self.0.vm).views.clear();
                let images = self.0.images(s, h);
                let lost = |n: usize, reason: &str| {
                    Ok(Tracking::Lost {
                        disk: self.0.disks[n].id.clone(),
                        reason: reason.into(),
                    })
                };
                if let Some(n) = images.iter().position(|i| i.tracked.iter().any(|t| t.broken)) {
                    return lost(n, "its process was killed");
                }
                if let Some((n, why)) = images
                    .iter()
                    .enumerate()
                    .find_map(|(n, i)| Some((n, i.touched()?)))
                {
                    return lost(n, why);
                }
                let since = |i: &&mut Image| i.tracked.iter().map(|t| t.since).collect::<Vec<_>>();
                let first = images.first().map(since).unwrap_or_default();
                if let Some(n) = images.iter().position(|i| since(i) != first) {
                    return lost(n, "its records are not those of the other disks");
                }
                Ok(if first.is_empty() {
                    Tracking::None
                } else {
                    Tracking::Since(first)
                })
            })
            .await
    }

    async fn start_tracking(&self, base: Position) -> Result<(), CaptureError> {
        self.0
            .run("capture.start_tracking", |s, h| {
                if self.0.images(s, h).iter().any(|i| !i.tracked.is_empty()) {
                    s.violation("tracking was started where tracking exists");
                    return Err(refused("start tracking"));
                }
                self.0.mine(s, h);
                let stored = !self.0.live;
                for image in self.0.images(s, h) {
                    image.seen = image.edits;
                    image.tracked.push(Tracked {
                        since: base,
                        dirty: BTreeSet::new(),
                        recording: true,
                        stored,
                        broken: false,
                    });
                }
                Ok(())
            })
            .await
    }

    async fn stop_tracking(&self) -> Result<(), CaptureError> {
        self.0
            .run("capture.stop_tracking", |s, h| {
                for image in self.0.images(s, h) {
                    image.tracked.clear();
                    image.seen = image.edits;
                }
                Ok(())
            })
            .await
    }

    async fn current(&self) -> Result<Box<dyn BlockView>, CaptureError> {
        let view = self
            .0
            .run("capture.current", |s, h| {
                if !process(s, h, self.0.vm).views.is_empty() {
                    s.violation("a view was opened over a leftover one, without recover");
                }
                self.0.free(s, h)?;
                let id = self.0.place(s, h);
                Ok(self.0.view(id, None))
            })
            .await?;
        Ok(Box::new(view))
    }

    async fn prepare(
        &self,
        base: Position,
        next: Position,
        wanted: Consistency,
    ) -> Result<Box<dyn Prepared>, CaptureError> {
        let disks = &self.0;
        let id = disks
            .run("capture.prepare", |s, h| {
                if !process(s, h, disks.vm).views.is_empty() {
                    s.violation("an instant was prepared over a leftover view, without recover");
                }
                disks.mine(s, h);
                let touched = |(n, image): (usize, &mut Image)| Some((n, image.touched()?));
                if let Some((n, why)) = disks.images(s, h).into_iter().enumerate().find_map(touched) {
                    return Err(CaptureError::TrackingLost {
                        disk: disks.disks[n].id.clone(),
                        reason: why.into(),
                    });
                }
                disks.fit(s, h, base)?;
                disks.free(s, h)?;
                Ok(disks.place(s, h))
            })
            .await?;
        Ok(Box::new(Ready {
            disks: disks.clone(),
            id,
            base,
            next,
            wanted,
        }))
    }

    async fn acknowledge(&self, base: Position) -> Result<(), CaptureError> {
        self.0
            .run("capture.acknowledge", |s, h| {
                for image in self.0.images(s, h) {
                    if image.tracked.len() != 2 || image.tracked[0].since != base {
                        return Err(refused("acknowledge"));
                    }
                    image.tracked.remove(0);
                }
                Ok(())
            })
            .await
    }

    async fn give_back(&self, base: Position, next: Position) -> Result<(), CaptureError> {
        self.0
            .run("capture.give_back", |s, h| {
                for image in self.0.images(s, h) {
                    let [first, second] = image.tracked.as_mut_slice() else {
                        return Err(refused("give back"));
                    };
                    if first.since != base || second.since != next {
                        return Err(refused("give back"));
                    }
                    first.dirty.append(&mut second.dirty);
                    first.recording = true;
                    image.tracked.truncate(1);
                }
                Ok(())
            })
            .await
    }

    async fn known_changes(&self) -> Result<Vec<Option<Vec<Extent>>>, CaptureError> {
        self.0
            .run("capture.known_changes", |s, h| {
                if self.0.live {
                    s.violation("changes of a running VM were read outside an instant");
                }
                let known = |image: &mut Image| {
                    let lost = image.tracked.is_empty() || image.tracked.iter().any(|t| t.broken);
                    let dirty: BTreeSet<u64> = image.tracked.iter().flat_map(|t| t.dirty.clone()).collect();
                    (!lost).then(|| extents(dirty.into_iter(), &image.content))
                };
                Ok(self.0.images(s, h).into_iter().map(known).collect())
            })
            .await
    }

    async fn own_ranges(&self) -> Result<Vec<Vec<Extent>>, CaptureError> {
        self.0
            .run("capture.own_ranges", |s, h| {
                let own = |i: &mut Image| match &i.own {
                    Some(own) => extents(own.iter().copied(), &i.content),
                    None => extents(i.content.keys().copied(), &i.content),
                };
                Ok(self.0.images(s, h).into_iter().map(own).collect())
            })
            .await
    }

    async fn close(self: Box<Self>) -> Result<(), CaptureError> {
        self.0
            .port
            .run("capture.close", |_, _| Ok::<(), CaptureError>(()))
            .await
    }
}

/// An instant that only has to be taken.
struct Ready {
    disks: Disks,
    /// Its place in the process's graph, and that of the view.
    id: u64,
    base: Position,
    next: Position,
    wanted: Consistency,
}

impl Ready {
    /// Switches the records of all disks: what they hold now, and which of their blocks changed since `base`.
    fn cut(&self, s: &mut State, h: usize) -> (Vec<Content>, Vec<BTreeSet<u64>>) {
        let (mut contents, mut dirty) = (Vec::new(), Vec::new());
        for image in self.disks.images(s, h) {
            contents.push(image.content.clone());
            for t in &mut image.tracked {
                t.recording = false;
                dirty.push(t.dirty.clone());
            }
            image.tracked.push(Tracked {
                since: self.next,
                dirty: BTreeSet::new(),
                recording: true,
                stored: !self.disks.live,
                broken: false,
            });
        }
        (contents, dirty)
    }
}

#[async_trait]
impl Prepared for Ready {
    async fn take(self: Box<Self>) -> Result<Instant, CaptureError> {
        let disks = &self.disks;
        let at = disks.port.shared.now();
        disks
            .run("capture.take", |s, h| {
                if !process(s, h, disks.vm).views.contains(&self.id) {
                    s.violation("an instant was taken after what was prepared for it was removed");
                    return Err(refused("instant"));
                }
                disks.fit(s, h, self.base)?;
                let agent = disks.live && s.agent.is_some();
                let consistency = match self.wanted {
                    Consistency::Application if agent => Consistency::Application,
                    Consistency::Application | Consistency::Crash | Consistency::Planned => {
                        Consistency::Crash
                    }
                };
                let (contents, dirty) = self.cut(s, h);
                let truth = Truth {
                    at,
                    disks: contents.clone(),
                };
                let next = self.next;
                let place = (disks.vm, next.generation().0.as_u128(), next.sequence());
                if s.truth.insert(place, truth).is_some() {
                    s.violation(format!("position {next} was used for two instants"));
                }
                Ok(Instant {
                    consistency,
                    view: Box::new(disks.view(self.id, Some((contents, dirty)))),
                })
            })
            .await
    }
}

struct View {
    port: Port,
    vm: VmId,
    id: u64,
    keys: Vec<String>,
    /// Contents and changes at the instant; `None` for the disks as they change.
    frozen: Option<(Vec<Content>, Vec<BTreeSet<u64>>)>,
}

impl View {
    async fn run<R: Send>(
        &self,
        name: &'static str,
        disk: usize,
        effect: impl FnOnce(&Content) -> R + Send,
    ) -> Result<R, CaptureError> {
        self.port
            .run(name, |s, h| {
                if !process(s, h, self.vm).views.contains(&self.id) {
                    return Err(CaptureError::Gone);
                }
                match &self.frozen {
                    Some((contents, _)) => contents.get(disk).map(effect),
                    None => s.hosts[h]
                        .images
                        .get(&self.keys[disk])
                        .map(|i| effect(&i.content)),
                }
                .ok_or_else(|| refused("no such disk"))
            })
            .await
    }
}

#[async_trait]
impl BlockView for View {
    async fn changed(&self, disk: usize) -> Result<Vec<Extent>, CaptureError> {
        let dirty = self.frozen.as_ref().and_then(|(_, d)| d.get(disk)).cloned();
        let dirty = dirty.ok_or_else(|| refused("changes of a view that is no instant"))?;
        self.run("view.changed", disk, move |content| {
            extents(dirty.into_iter(), content)
        })
        .await
    }

    async fn allocation(&self, disk: usize, offset: u64, len: u64) -> Result<Vec<Extent>, CaptureError> {
        self.run("view.allocation", disk, |content| cover(content, offset, len))
            .await
    }

    async fn read(&self, disk: usize, offset: u64, len: u32) -> Result<Bytes, CaptureError> {
        self.run("view.read", disk, |content| bytes_of(content, offset, len.into()))
            .await
    }

    async fn close(self: Box<Self>) -> Result<(), CaptureError> {
        self.port
            .run("view.close", |s, h| {
                process(s, h, self.vm).views.remove(&self.id);
                Ok::<(), CaptureError>(())
            })
            .await
    }
}
