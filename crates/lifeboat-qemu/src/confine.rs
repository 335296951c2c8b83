//! What a guest's process may be: a user of its own that owns nothing on this host, without capabilities and without a way to
//! new ones. setpriv(1) of util-linux puts that on and becomes the process, so its number does not change.
//!
//! Which user that is follows from the VM's UUID. Whether it is free the kernel says: no process of the host has it. Nothing
//! is remembered. What the process forbids itself beyond that is QEMU's seccomp filter, see [`crate::probe`].

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_model::VmId;

use crate::files;

/// The program that puts the confinement on.
pub(crate) const SETPRIV: &str = "setpriv";

/// User ids for guests, both ends included. The first one is the id of a group that all guests are in, and of no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRange {
    first: u32,
    last: u32,
}

impl Default for UserRange {
    /// 1,900,000,000 to 1,900,065,535: ids that no distribution and no service of systemd hands out (systemd's list of
    /// user ids, UIDS-GIDS.md, has 1,879,048,192 to 2,147,483,647 as not used).
    fn default() -> Self {
        Self {
            first: 1_900_000_000,
            last: 1_900_065_535,
        }
    }
}

impl FromStr for UserRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once('-').and_then(|(first, last)| {
            let number = |n: &str| n.trim().parse::<u32>().ok();
            Some((number(first)?, number(last)?))
        });
        match ends {
            // To the system calls the highest id means "leave it as it is".
            Some((first, last)) if first >= 1000 && first < last && last < u32::MAX => {
                Ok(Self { first, last })
            }
            _ => Err(format!(
                "\"{text}\" is no range of user ids: write FIRST-LAST, such as {}, with FIRST from 1000 on and LAST above it",
                Self::default()
            )),
        }
    }
}

impl fmt::Display for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl UserRange {
    /// The group that all guests are in: it lets them through to the directories that are theirs.
    fn group(self) -> u32 {
        self.first
    }

    /// Users for a VM in the order in which they are tried.
    fn candidates(self, vm: VmId) -> impl Iterator<Item = u32> {
        let count = u64::from(self.last - self.first);
        let bytes = *blake3::hash(vm.0.as_bytes()).as_bytes();
        let at = bytes.iter().take(8).fold(0_u64, |n, b| n << 8 | u64::from(*b)) % count;
        let user = move |n: u64| u32::try_from((at + n) % count).map_or(self.last, |n| self.first + 1 + n);
        (0..count).map(user)
    }
}

/// The users of the guests of this host.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    /// `None`: guests run as the daemon's own user.
    range: Option<UserRange>,
    /// Users of processes that are just being started.
    starting: Arc<Mutex<HashSet<u32>>>,
}

/// A guest's user, its own until this is dropped or its process runs.
#[derive(Debug)]
pub(crate) struct User {
    id: u32,
    group: u32,
    starting: Arc<Mutex<HashSet<u32>>>,
}

impl Drop for User {
    fn drop(&mut self) {
        lock(&self.starting).remove(&self.id);
    }
}

fn lock(starting: &Mutex<HashSet<u32>>) -> MutexGuard<'_, HashSet<u32>> {
    starting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Users {
    /// Only root can make processes of other users.
    pub(crate) fn new(range: Option<UserRange>) -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            range: range.filter(|_| root),
            starting: Arc::default(),
        }
    }

    /// What keeps this host from giving guests users of their own, and what to do about it.
    pub(crate) fn obstacle(&self, state: &Path) -> Option<String> {
        let range = self.range?;
        // What cannot be read is no obstacle: the start itself says what is wrong.
        let map = fs::read_to_string("/proc/self/uid_map");
        if map.is_ok_and(|map| !mapped(range, &map)) {
            return Some(format!(
                "the users {range} for guests do not exist here, because this is a container with fewer user ids: set \
                 guest_users in [qemu] to a range that it has, or to \"none\""
            ));
        }
        barred(state)
    }

    /// A user that no process of this host has; `None` when guests have none of their own.
    pub(crate) fn take(&self, vm: VmId) -> io::Result<Option<User>> {
        let Some(range) = self.range else { return Ok(None) };
        let mut starting = lock(&self.starting);
        let used = users_of_processes(Path::new("/proc"))?;
        let free = range
            .candidates(vm)
            .find(|id| !used.contains(id) && !starting.contains(id));
        let id = free.ok_or_else(|| {
            io::Error::other(format!(
                "all users of the range {range} have a process: name a larger one as guest_users in [qemu]"
            ))
        })?;
        starting.insert(id);
        Ok(Some(User {
            id,
            group: range.group(),
            starting: Arc::clone(&self.starting),
        }))
    }

    /// The command that runs `program` for a guest as `user`, which may open `devices` as their groups may.
    pub(crate) fn guest(
        user: Option<&User>,
        devices: &[u32],
        program: &str,
        arguments: Vec<String>,
    ) -> Vec<String> {
        let Some(User { id, group, .. }) = user else {
            return whole(program, arguments);
        };
        let groups: Vec<_> = [*group].iter().chain(devices).map(u32::to_string).collect();
        let (id, groups) = (id.to_string(), groups.join(","));
        let user = ["--reuid", &id, "--regid", &id, "--groups", &groups];
        restricted(&user, "-all", program, arguments)
    }

    /// The command that runs a program which works on images without a guest: as root, with no right but to files.
    pub(crate) fn tool(&self, program: &str, arguments: Vec<String>) -> Vec<String> {
        if self.range.is_none() {
            return whole(program, arguments);
        }
        restricted(&[], "-all,+dac_override", program, arguments)
    }

    /// Makes `dir`, two levels below `state`, a directory that is `user`'s, and lets guests through to it and to nothing else
    /// of `state`. The permissions are looked at each time: files come and go.
    pub(crate) fn let_in(&self, state: &Path, dir: &Path, user: Option<&User>) -> io::Result<()> {
        files::private_dir(dir)?;
        let (Some(user), Some(between)) = (user, dir.parent()) else {
            return Ok(());
        };
        for entry in fs::read_dir(state)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if (kind.is_file() || kind.is_dir()) && entry.path() != between {
                close(&entry.path())?;
            }
        }
        for through in [between, state] {
            chown(through, None, Some(user.group))?;
            fs::set_permissions(through, fs::Permissions::from_mode(0o710))?;
        }
        user.own(dir)
    }
}

impl User {
    /// Makes a file or directory this user's.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.id), Some(self.id))
    }
}

/// Takes away what others than the owner and the group may do with a file. Guests are others to it.
fn close(path: &Path) -> io::Result<()> {
    let mode = match fs::metadata(path) {
        Ok(meta) => meta.mode(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if mode & 0o007 == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7770)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Groups that may open these devices, where not every user may.
pub(crate) fn groups(devices: &[&str]) -> Vec<u32> {
    let all = devices.iter().filter_map(|device| fs::metadata(device).ok());
    all.filter(|meta| meta.mode() & 0o006 != 0o006)
        .map(|meta| meta.gid())
        .collect()
}

/// The command that runs `program` by setpriv(1) with these options for its user, without ways to new rights.
fn restricted(user: &[&str], bounding_set: &str, program: &str, arguments: Vec<String>) -> Vec<String> {
    let bounding_set = format!("--bounding-set={bounding_set}");
    let rights = ["--no-new-privs", "--inh-caps=-all", &bounding_set, "--"];
    let setpriv = [SETPRIV].into_iter().chain(user.iter().copied()).chain(rights);
    setpriv
        .map(str::to_owned)
        .chain(whole(program, arguments))
        .collect()
}

fn whole(program: &str, arguments: Vec<String>) -> Vec<String> {
    let mut command = vec![program.to_owned()];
    command.extend(arguments);
    command
}

/// Real, effective and saved users of all processes.
fn users_of_processes(proc: &Path) -> io::Result<BTreeSet<u32>> {
    let mut users = BTreeSet::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.parse::<i32>().is_ok());
        if !number {
            continue;
        }
        // A process that is gone has no user any more.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let line = status.lines().find_map(|l| l.strip_prefix("Uid:"));
        let ids = line.into_iter().flat_map(str::split_ascii_whitespace);
        users.extend(ids.filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(users)
}

/// Whether the ids from `first` to `last` exist in a user namespace, by its map (user_namespaces(7)): the first id inside, the
/// first one outside, and how many follow each other.
fn mapped(range: UserRange, map: &str) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_ascii_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        match numbers[..] {
            [inside, _, count] => inside <= range.first.into() && u64::from(range.last) < inside + count,
            _ => false,
        }
    })
}

/// The directory above `state` that guests' users could not pass. `state` itself is Lifeboat's.
fn barred(state: &Path) -> Option<String> {
    let state = fs::canonicalize(state).unwrap_or_else(|_| state.to_owned());
    let barred = state.ancestors().skip(1).find(|dir| {
        let mode = fs::metadata(dir).map_or(0o001, |m| m.mode());
        mode & 0o001 == 0
    })?;
    Some(format!(
        "guests run as users of their own, and these cannot pass {dir} to {state}: allow it with chmod o+x {dir}, move \
         state_dir, or set guest_users = \"none\" in [qemu]",
        dir = barred.display(),
        state = state.display(),
    ))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_range_is_read_as_it_is_written_and_nothing_else_is() {
        let range: UserRange = "1900000000-1900065535".parse().unwrap();
        assert_eq!(range, UserRange::default());
        assert_eq!(range.to_string().parse(), Ok(range));
        for bad in [
            "",
            "5",
            "0-70000",
            "999-2000",
            "2000-2000",
            "3000-2000",
            "1000-4294967295",
            "-1-5",
            "1000-5000000000",
        ] {
            let refused = bad.parse::<UserRange>().unwrap_err();
            assert!(refused.contains("FIRST-LAST"), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_vm_has_a_user_of_its_own_and_finds_another_one_when_it_is_taken() {
        let range: UserRange = "5000-5003".parse().unwrap();
        let vm = VmId(Uuid::from_u128(7));
        let order: Vec<_> = range.candidates(vm).collect();
        assert_eq!(
            order,
            range.candidates(vm).collect::<Vec<_>>(),
            "it follows from the VM"
        );
        let all: BTreeSet<_> = order.iter().copied().collect();
        assert_eq!(
            all,
            BTreeSet::from([5001, 5002, 5003]),
            "the group's number is no user's"
        );
        let users = Users {
            range: Some(range),
            starting: Arc::default(),
        };
        let first = users.take(vm).unwrap().unwrap();
        let second = users.take(vm).unwrap().unwrap();
        assert_eq!([first.id, second.id], order[..2]);
        let third = users.take(vm).unwrap().unwrap();
        let none = users.take(vm).unwrap_err();
        assert!(none.to_string().contains("guest_users"), "{none}");
        drop(first);
        assert_eq!(users.take(vm).unwrap().unwrap().id, order[0]);
        drop((second, third));
        let off = Users::new(None);
        assert!(off.take(vm).unwrap().is_none());
    }

    #[test]
    fn a_container_without_these_users_is_told_apart() {
        let range: UserRange = "5000-5003".parse().unwrap();
        let table = [
            ("         0          0 4294967295\n", true),
            ("0 100000 65536", true),
            ("0 100000 5003", false),
            ("0 100000 5004", true),
            ("5001 100000 65536", false),
            ("0 0 1\n1 100000 65536", true),
            ("", false),
        ];
        for (map, there) in table {
            assert_eq!(mapped(range, map), there, "{map}");
        }
    }

    #[test]
    fn users_of_processes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, ids) in [
            ("12", "0\t5001\t5001\t5001"),
            ("13", "7\t7\t8\t7"),
            ("self", "99\t99\t99\t99"),
        ] {
            let at = dir.path().join(pid);
            fs::create_dir(&at).unwrap();
            fs::write(
                at.join("status"),
                format!("Name:\tqemu\nUid:\t{ids}\nGid:\t1\t1\t1\t1\n"),
            )
            .unwrap();
        }
        fs::create_dir(dir.path().join("14")).unwrap();
        let found = users_of_processes(dir.path()).unwrap();
        assert_eq!(found, BTreeSet::from([0, 7, 8, 5001]));
        let own = users_of_processes(Path::new("/proc")).unwrap();
        assert!(own.contains(&rustix::process::geteuid().as_raw()));
    }
}
