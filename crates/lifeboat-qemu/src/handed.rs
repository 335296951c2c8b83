//! What a guest's process is given already open, so that it needs no right to any path: images and logs as sets of descriptors
//! that QEMU opens by the name `/dev/fdset/N`, sockets that already listen, and directories. What a running process is given is
//! in [`lifeboat_block::fdset`].
//!
//! The daemon keeps nothing of it open once the process runs: the lock on an image belongs to every process that has the same open
//! file. For that reason QEMU must not keep a descriptor in a set either when it opens an image again with other rights, see
//! [`crate::merge`].

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use camino::Utf8Path;
use command_fds::FdMapping;
use lifeboat_block::fdset::{listen, set_name};
use serde_json::{Map, Value};

/// The first number that a process is given something under; below are its standard streams.
const FIRST: i32 = 3;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Made when it is not there, for this user only, and written to at its end.
    Append,
}

/// Everything that one process is given.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pub(crate) mappings: Vec<FdMapping>,
    /// Options that make the sets.
    options: Vec<String>,
    /// How many there are: one for each time that a file is opened.
    count: u32,
    /// File → its set; of one that is opened twice, such as a backing file of two disks, the last.
    sets: BTreeMap<String, u32>,
}

impl Handed {
    /// The options that make the sets known to QEMU, and the set of each file.
    pub(crate) fn take_sets(&mut self) -> (Vec<String>, BTreeMap<String, u32>) {
        (std::mem::take(&mut self.options), std::mem::take(&mut self.sets))
    }

    /// Opens a file, and says by which name the process opens it. An error names the file.
    pub(crate) fn file(&mut self, path: &str, access: Access) -> io::Result<String> {
        let file = open(Path::new(path), access).map_err(|e| named(path, &e))?;
        let number = self.descriptor(file.into());
        self.count = self.count.saturating_add(1);
        let set = self.count;
        // The path that it is for, as QEMU shows it (`query-fdsets`). A comma is written twice.
        let stands_for = path.replace(',', ",,");
        let option = format!("fd={number},set={set},opaque={stands_for}");
        self.options.extend(["-add-fd".to_owned(), option]);
        self.sets.insert(path.to_owned(), set);
        Ok(set_name(set))
    }

    /// A socket that listens at `path`, and its number in the process.
    pub(crate) fn listener(&mut self, path: &Utf8Path) -> io::Result<i32> {
        let listener = listen(path).map_err(|e| named(path.as_str(), &e))?;
        Ok(self.descriptor(listener.into()))
    }

    /// A tap device, and its number in the process, which could not attach to one of another user.
    pub(crate) fn tap(&mut self, ifname: &str) -> io::Result<i32> {
        let device = lifeboat_kernel::tap::attach(ifname);
        let device = device.map_err(|e| named(&format!("tap device {ifname}"), &e))?;
        Ok(self.descriptor(device.into()))
    }

    /// A new tap device that is a port of this bridge, and its number in the process. It is gone when no process has it open.
    pub(crate) fn bridge_port(&mut self, bridge: &str, mac: &str) -> io::Result<i32> {
        let in_bridge = |e: &io::Error| named(&format!("port of bridge {bridge}"), e);
        let (device, name) = lifeboat_kernel::tap::create("lbtap%d").map_err(|e| in_bridge(&e))?;
        // A bridge without an address of its own takes the lowest one of its ports; it must not change with what is started.
        let address = format!("fe{}", mac.get(2..).unwrap_or_default());
        let connect = [
            "link", "set", "dev", &name, "address", &address, "master", bridge, "up",
        ];
        let ip = Command::new("ip").args(connect).output();
        let ip = ip.map_err(|e| in_bridge(&io::Error::new(e.kind(), format!("ip: {e}"))))?;
        if !ip.status.success() {
            let said = String::from_utf8_lossy(&ip.stderr);
            return Err(in_bridge(&io::Error::other(format!("ip: {}", said.trim()))));
        }
        Ok(self.descriptor(device.into()))
    }

    /// A directory, and the name by which the process finds it, whatever lies above it.
    pub(crate) fn directory(&mut self, path: &Utf8Path) -> io::Result<String> {
        let dir = File::open(path).map_err(|e| named(path.as_str(), &e))?;
        let number = self.descriptor(dir.into());
        Ok(format!("/proc/self/fd/{number}"))
    }

    /// The options of a block node with everything below it, in which every file is one that is handed over.
    pub(crate) fn node(&mut self, node: &Value) -> io::Result<Value> {
        self.opened(node, false)
    }

    /// QEMU opens a backing image for reading unless its options say otherwise, and every other part like what it is a part of.
    fn opened(&mut self, node: &Value, read_only: bool) -> io::Result<Value> {
        let Value::Object(options) = node else {
            return Ok(node.clone());
        };
        let read_only = options
            .get("read-only")
            .and_then(Value::as_bool)
            .unwrap_or(read_only);
        let access = if read_only { Access::Read } else { Access::Write };
        let mut handed = Map::new();
        for (key, value) in options {
            let value = match (key.as_str(), value) {
                ("filename", Value::String(path)) => self.file(path, access)?.into(),
                ("backing", below) => self.opened(below, true)?,
                (_, part) => self.opened(part, read_only)?,
            };
            handed.insert(key.clone(), value);
        }
        Ok(handed.into())
    }

    fn descriptor(&mut self, parent_fd: OwnedFd) -> i32 {
        let above = i32::try_from(self.mappings.len()).unwrap_or(i32::MAX);
        let child_fd = FIRST.saturating_add(above);
        self.mappings.push(FdMapping { parent_fd, child_fd });
        child_fd
    }
}

/// What QEMU said of the files of its sets, with their names.
pub(crate) fn in_words(said: &str, sets: &BTreeMap<String, u32>) -> String {
    let mut sets: Vec<_> = sets.iter().collect();
    // 12 before 1.
    sets.sort_by_key(|(_, set)| std::cmp::Reverse(**set));
    let named = |said: String, (path, set): (&String, &u32)| said.replace(&set_name(set), path);
    sets.into_iter().fold(said.to_owned(), named)
}

pub(crate) fn open(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match access {
        Access::Read => options.read(true),
        Access::Write => options.read(true).write(true),
        Access::Append => options.append(true).create(true).mode(0o600),
    };
    options.open(path)
}

fn named(path: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{OFlags, fcntl_getfl};
    use serde_json::json;

    use super::*;

    #[test]
    fn every_file_of_a_graph_is_opened_as_qemu_would_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (top, data, middle, base) = (path("top, 1"), path("data"), path("middle"), path("base"));
        let file = |name: &str| json!({"driver": "file", "filename": name});
        let node = json!({
            "driver": "qcow2", "file": file(&top), "data-file": file(&data), "discard": "unmap",
            "backing": {
                "driver": "qcow2", "file": file(&middle),
                "backing": {"driver": "raw", "read-only": false, "file": file(&base)},
            },
        });
        let mut handed = Handed::default();
        let opened = handed.node(&node).unwrap();
        let (options, sets) = handed.take_sets();
        assert_eq!(sets.keys().collect::<Vec<_>>(), [&base, &data, &middle, &top]);
        let table = [
            ("/file", &top, OFlags::RDWR),
            ("/data-file", &data, OFlags::RDWR),
            ("/backing/file", &middle, OFlags::RDONLY),
            ("/backing/backing/file", &base, OFlags::RDWR),
        ];
        for (at, path, flags) in table {
            let set = sets[path.as_str()];
            let name = opened.pointer(at).unwrap()["filename"].as_str().unwrap();
            assert_eq!(name, format!("/dev/fdset/{set}"), "{at}");
            let option = options
                .iter()
                .find(|o| o.contains(&format!(",set={set},")))
                .unwrap();
            assert!(
                option.ends_with(&format!("opaque={}", path.replace(',', ",,"))),
                "{option}"
            );
            let mapping = handed
                .mappings
                .iter()
                .find(|m| option.starts_with(&format!("fd={},", m.child_fd)));
            let fd = mapping.unwrap().parent_fd.as_fd();
            assert_eq!(fcntl_getfl(fd).unwrap() & OFlags::ACCMODE, flags, "{path}");
        }
        assert_eq!(opened["discard"], "unmap");
        // A set is never another file's too: two disks may have one backing file.
        let names: std::collections::BTreeSet<_> = [&base, &base, &top]
            .iter()
            .map(|path| handed.file(path, Access::Read).unwrap())
            .collect();
        let before: std::collections::BTreeSet<_> = sets.values().map(set_name).collect();
        assert_eq!((names.len(), names.intersection(&before).count()), (3, 0));
        let gone = handed.node(&file("/no/such")).unwrap_err();
        assert!(gone.to_string().contains("/no/such"), "{gone}");
    }

    #[test]
    fn a_socket_takes_the_place_of_one_that_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(dir.path().join("a.sock")).unwrap();
        let mut handed = Handed::default();
        let first = handed.listener(&path).unwrap();
        let second = handed.listener(&path).unwrap();
        assert_eq!((first, second), (3, 4));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
