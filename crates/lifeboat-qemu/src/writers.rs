//! Who writes to the images of this host's VMs while processes of ours have them open. The kernel reports each change of a
//! watched file with the number of the process that made it, so that QEMU's writes and those of other programs are distinguished.
//!
//! What this cannot see: writes through a memory mapping, writes to a device below a file system or a volume, writes by
//! another host to shared storage, and everything while this daemon does not run. It needs the rights of root.
//!
//! Cost: the kernel keeps one event for each file and writer until it is read, so a busy guest adds one event between two
//! looks, not one for each write.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lifeboat_model::{DiskId, VmId};
use nix::errno::Errno;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};

use crate::identity::Identity;

/// A watch over image files.
pub(crate) struct Writers {
    /// `None` without the rights for it.
    group: Option<Fanotify>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Device and inode → whose disk it is part of.
    files: HashMap<(u64, u64), HashSet<(VmId, DiskId)>>,
    /// Processes that write on behalf of a VM.
    own: HashMap<VmId, HashSet<i32>>,
    /// Who wrote to a disk and was not known to be one of these then, by process number, in words. A process that is
    /// being started writes before its number is known here.
    seen: HashMap<(VmId, DiskId), BTreeMap<i32, String>>,
    /// Why something may have been missed.
    missed: HashMap<(VmId, DiskId), String>,
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writers")
            .field("watches", &self.group.is_some())
            .finish_non_exhaustive()
    }
}

impl Writers {
    pub(crate) fn new() -> Self {
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_QUEUE
            | InitFlags::FAN_UNLIMITED_MARKS;
        let events = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
        let group = Fanotify::init(flags, events);
        if let Err(error) = &group {
            tracing::warn!(
                %error,
                "writes of other programs to the images of running VMs cannot be noticed; that takes the rights of root"
            );
        }
        Self {
            group: group.ok(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches images of a disk, from before a process opens them.
    pub(crate) fn arm(&self, vm: VmId, disk: &DiskId, images: &[Identity]) {
        let Some(group) = &self.group else { return };
        for image in images {
            let mask = MaskFlags::FAN_MODIFY;
            let marked = group.mark(
                MarkFlags::FAN_MARK_ADD,
                mask,
                rustix::fs::CWD,
                Some(image.path.as_std_path()),
            );
            match marked {
                Ok(()) => {
                    let mut state = self.state();
                    let users = state.files.entry((image.device, image.inode)).or_default();
                    users.insert((vm, disk.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, path = %image.path, "the image cannot be watched for other writers")
                }
            }
        }
    }

    /// What this process writes is the VM's own.
    pub(crate) fn allow(&self, vm: VmId, pid: i32) {
        self.state().own.entry(vm).or_default().insert(pid);
    }

    /// Whether a process is known to write for this VM.
    pub(crate) fn attends(&self, vm: VmId, pid: i32) -> bool {
        self.state().own.get(&vm).is_some_and(|own| own.contains(&pid))
    }

    /// No process of Lifeboat has the VM's images open any more. What was found is kept until it is forgotten.
    pub(crate) fn disarm(&self, vm: VmId, images: &[Identity]) {
        self.drain();
        let mut state = self.state();
        let own = state.own.remove(&vm).unwrap_or_default();
        let of_vm = state.seen.iter_mut().filter(|((of, _), _)| *of == vm);
        of_vm.for_each(|(_, pids)| pids.retain(|pid, _| !own.contains(pid)));
        let mut unused = Vec::new();
        state.files.retain(|file, users| {
            users.retain(|(of, _)| *of != vm);
            if users.is_empty() {
                unused.push(*file);
            }
            !users.is_empty()
        });
        drop(state);
        let Some(group) = &self.group else { return };
        for image in images.iter().filter(|i| unused.contains(&(i.device, i.inode))) {
            // Another file may lie there now, or none; then the mark goes with the last use of the old one.
            let _ = group.mark(
                MarkFlags::FAN_MARK_REMOVE,
                MaskFlags::FAN_MODIFY,
                rustix::fs::CWD,
                Some(image.path.as_std_path()),
            );
        }
    }

    /// Who else wrote to a disk's images since they were armed, or since that was forgotten; in words.
    pub(crate) fn foreign(&self, vm: VmId, disk: &DiskId) -> Option<String> {
        self.drain();
        let state = self.state();
        let disk = (vm, disk.clone());
        let own = state.own.get(&vm);
        let pids = state.seen.get(&disk).into_iter().flatten();
        let mut others = pids.filter(|(pid, _)| !own.is_some_and(|own| own.contains(pid)));
        let other = others.next().map(|(_, who)| format!("{who} wrote to its image"));
        other.or_else(|| state.missed.get(&disk).cloned())
    }

    /// What was seen up to now is of no interest any more.
    pub(crate) fn forget(&self, vm: VmId, disk: &DiskId) {
        self.drain();
        let mut state = self.state();
        let disk = (vm, disk.clone());
        state.seen.remove(&disk);
        state.missed.remove(&disk);
    }

    /// Takes in what the kernel has reported.
    fn drain(&self) {
        let Some(group) = &self.group else { return };
        let mut state = self.state();
        loop {
            let events = match group.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    state.lost_sight(&format!("what was written to it cannot be read: {error}"));
                    return;
                }
            };
            for event in &events {
                if event.mask().contains(MaskFlags::FAN_Q_OVERFLOW) {
                    state.lost_sight("more was written than could be looked at");
                }
                let Some(fd) = event.fd() else { continue };
                let Ok(stat) = rustix::fs::fstat(fd) else { continue };
                state.take((stat.st_dev, stat.st_ino), event.pid());
            }
        }
    }
}

impl State {
    fn take(&mut self, file: (u64, u64), pid: i32) {
        let users = self.files.get(&file).cloned().unwrap_or_default();
        // An image below two VMs is written to by neither; one process may write for several only to what they share.
        let owned = users
            .iter()
            .any(|(vm, _)| self.own.get(vm).is_some_and(|own| own.contains(&pid)));
        if owned {
            return;
        }
        for user in users {
            self.seen
                .entry(user)
                .or_default()
                .entry(pid)
                .or_insert_with(|| who(pid));
        }
    }

    fn lost_sight(&mut self, why: &str) {
        let users: Vec<_> = self.files.values().flatten().cloned().collect();
        for user in users {
            self.missed.entry(user).or_insert_with(|| why.to_owned());
        }
    }
}

/// A process as people know it, as far as it can still be asked.
fn who(pid: i32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("another program, {} (pid {pid}),", name.trim()),
        Err(_) => format!("another program (pid {pid}, which has ended)"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use camino::Utf8PathBuf;
    use lifeboat_model::DiskFormat;
    use uuid::Uuid;

    use super::*;
    use crate::layers::{Kind, Layer};

    /// What the watch costs a program that writes. Prints; judges nothing.
    #[test]
    #[ignore = "a measurement"]
    fn measure_a_watched_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("a.raw")).unwrap();
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        let layer = Layer {
            path,
            format: DiskFormat::Raw,
            kind: Kind::File,
        };
        let (vm, disk) = (VmId(Uuid::from_u128(1)), DiskId::new("a").unwrap());
        let image = Identity::of(&layer).unwrap();
        let writers = Writers::new();
        const WRITES: u64 = 200_000;
        let block = [7; 4096];
        for round in 0..3 {
            for watched in [false, true] {
                if watched {
                    writers.arm(vm, &disk, std::slice::from_ref(&image))
                } else {
                    writers.disarm(vm, std::slice::from_ref(&image))
                }
                let begun = Instant::now();
                for n in 0..WRITES {
                    file.write_all_at(&block, n % 16384 * 4096).unwrap();
                }
                let each = begun.elapsed().as_nanos() / u128::from(WRITES);
                let begun = Instant::now();
                let seen = writers.foreign(vm, &disk);
                println!(
                    "round {round}, watched {watched}: {each} ns a write; a look {:?}: {seen:?}",
                    begun.elapsed()
                );
                writers.forget(vm, &disk);
            }
        }
    }
}
