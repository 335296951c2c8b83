//! UEFI firmware on this host: which code image a machine gets, and its variable store. A machine that another host described
//! names its code image without a path. It is looked up in this host's firmware descriptors (QEMU's docs/interop/firmware.json),
//! which distributions ship and an administrator adds to; no other file is ever opened for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use camino::Utf8PathBuf;
use lifeboat_engine::ports::hypervisor::{HypervisorError, Launch};
use lifeboat_model::{Firmware, Hardware};
use serde::Deserialize;

use crate::config::QemuConfig;
use crate::error::{io_error, refuse};
use crate::files;

/// Most bytes of a descriptor that are read; those of distributions have about 1 KiB.
const DESCRIPTOR_MAX: u64 = 64 << 10;

/// Most bytes of a variable store; real ones have half a MiB.
pub(crate) const VARS_MAX: u64 = 64 << 20;

/// Files that a UEFI machine is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flash {
    pub(crate) code: Utf8PathBuf,
    pub(crate) vars: Utf8PathBuf,
    /// What the variable store is made from; `None` when it is there.
    template: Option<Utf8PathBuf>,
}

/// An entry of the host's list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    code: Utf8PathBuf,
    template: Option<Utf8PathBuf>,
}

#[derive(Deserialize)]
struct Descriptor {
    mapping: Mapping,
}

/// Only what is mapped as flash has variables.
#[derive(Deserialize)]
#[serde(tag = "device", rename_all = "kebab-case")]
enum Mapping {
    #[serde(rename_all = "kebab-case")]
    Flash {
        executable: FlashFile,
        nvram_template: Option<FlashFile>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct FlashFile {
    filename: Utf8PathBuf,
    format: String,
}

impl FlashFile {
    fn raw(self) -> Option<Utf8PathBuf> {
        (self.format == "raw").then_some(self.filename)
    }
}

/// The files of the machine's firmware, looked at; `None` for a BIOS machine.
pub(crate) async fn flash(config: &QemuConfig, launch: &Launch) -> Result<Option<Flash>, HypervisorError> {
    let Hardware::Own(hardware) = &launch.spec.hardware;
    let Firmware::Uefi { code, vars } = hardware.firmware.clone() else {
        return Ok(None);
    };
    let (dirs, own) = (config.firmware_dirs.clone(), launch.firmware_vars.clone());
    aside(move || {
        let listed = find(&dirs, &code)?;
        let fresh = own.is_some();
        let Some(vars) = own.or(vars.map(Into::into)) else {
            return refuse("the VM has no file for its firmware's variables".into());
        };
        let template = match is_file(&vars) {
            Err(e) if fresh && e.kind() == io::ErrorKind::NotFound => Some(listed.template.ok_or_else(|| {
                let code = &listed.code;
                HypervisorError::Preflight(format!(
                    "the primary sent no firmware variables, and no firmware descriptor of this host names a template for {code}"
                ))
            })?),
            Err(e) => return cannot_write(&vars, &e),
            Ok(()) => match File::options().read(true).write(true).open(&vars) {
                Ok(_) => None,
                Err(e) => return cannot_write(&vars, &e),
            },
        };
        Ok(Some(Flash {
            code: listed.code,
            vars,
            template,
        }))
    })
    .await
}

/// Whether this host has the machine's firmware.
pub(crate) async fn check(config: &QemuConfig, firmware: &Firmware) -> Result<(), HypervisorError> {
    let Firmware::Uefi { code, .. } = firmware.clone() else {
        return Ok(());
    };
    let dirs = config.firmware_dirs.clone();
    aside(move || find(&dirs, &code).map(|_| ())).await
}

impl Flash {
    /// Makes the variable store where it is not there yet.
    pub(crate) async fn make(&self) -> Result<(), HypervisorError> {
        let Some(template) = self.template.clone() else {
            return Ok(());
        };
        let vars = self.vars.clone();
        tracing::warn!(%vars, %template, "the primary sent no firmware variables: the VM starts with empty ones");
        aside(move || {
            let empty = files::read_at_most(template.as_std_path(), VARS_MAX)
                .map_err(io_error(format!("cannot read {template}")))?;
            files::write_durably(vars.as_std_path(), &empty).map_err(io_error(format!("cannot write {vars}")))
        })
        .await
    }
}

/// The variables in a file.
pub(crate) async fn read(vars: Utf8PathBuf) -> Result<bytes::Bytes, HypervisorError> {
    aside(move || {
        let read = is_file(&vars).and_then(|()| files::read_at_most(vars.as_std_path(), VARS_MAX));
        let what = format!("cannot read the firmware's variables {vars}");
        Ok(read.map_err(io_error(what))?.into())
    })
    .await
}

/// Files may lie on storage that does not answer.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HypervisorError> + Send + 'static,
) -> Result<T, HypervisorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => refuse("the firmware's files could not be looked at: the daemon stops".into()),
    }
}

fn cannot_write<T>(vars: &Utf8PathBuf, e: &io::Error) -> Result<T, HypervisorError> {
    refuse(format!(
        "the firmware's variable store {vars} cannot be opened for writing: {e}"
    ))
}

/// Opening anything else than a regular file may wait for ever, or do something.
fn is_file(path: &Utf8PathBuf) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ))
    }
}

/// The code image of that path or name.
fn find(dirs: &[Utf8PathBuf], code: &str) -> Result<Listed, HypervisorError> {
    let listed = list(dirs);
    let is_path = code.starts_with('/');
    let same = |l: &&Listed| {
        if is_path {
            l.code == code
        } else {
            l.code.file_name() == Some(code)
        }
    };
    let found = match (listed.iter().find(same), is_path) {
        (Some(found), _) => found.clone(),
        // An administrator of this host wrote it.
        (None, true) => Listed {
            code: code.into(),
            template: None,
        },
        (None, false) => {
            return refuse(format!(
                "this host has no UEFI firmware \"{code}\": install the package that has it (on Debian, ovmf), or describe it by a \
                 file in /etc/qemu/firmware"
            ));
        }
    };
    match is_file(&found.code).and_then(|()| File::open(&found.code)) {
        Ok(_) => Ok(found),
        Err(e) => refuse(format!(
            "firmware code image {code} cannot be opened: {e}; install the package that has it (on Debian, ovmf)"
        )),
    }
}

/// What the descriptors list, in the order of their names. One in a later directory replaces one of the same name; an empty one
/// hides it. What is no descriptor is passed over, as QEMU's document asks.
fn list(dirs: &[Utf8PathBuf]) -> Vec<Listed> {
    let mut descriptors = BTreeMap::new();
    for dir in dirs {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "json") {
                descriptors.insert(entry.file_name(), path);
            }
        }
    }
    descriptors
        .values()
        .filter_map(|path| read_descriptor(path))
        .collect()
}

fn read_descriptor(path: &Path) -> Option<Listed> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let bytes = files::read_at_most(path, DESCRIPTOR_MAX).ok()?;
    let descriptor: Descriptor = serde_json::from_slice(&bytes).ok()?;
    let Mapping::Flash {
        executable,
        nvram_template,
    } = descriptor.mapping
    else {
        return None;
    };
    Some(Listed {
        code: executable.raw().filter(|code| code.is_absolute())?,
        template: nvram_template.and_then(FlashFile::raw),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dirs(tempfile::TempDir);

    impl Dirs {
        fn new() -> Self {
            let dirs = Self(tempfile::tempdir().unwrap());
            for dir in ["shipped", "own"] {
                fs::create_dir(dirs.0.path().join(dir)).unwrap();
            }
            dirs
        }

        fn path(&self, name: &str) -> Utf8PathBuf {
            Utf8PathBuf::from_path_buf(self.0.path().join(name)).unwrap()
        }

        fn file(&self, name: &str, content: &str) -> Utf8PathBuf {
            fs::write(self.path(name), content).unwrap();
            self.path(name)
        }

        fn describe(&self, name: &str, code: &str) {
            let text = serde_json::json!({
                "description": "x", "interface-types": ["uefi"], "features": [], "tags": [],
                "mapping": {
                    "device": "flash", "executable": {"filename": self.path(code), "format": "raw"},
                    "nvram-template": {"filename": self.path("vars"), "format": "raw"},
                },
            });
            self.file(name, &text.to_string());
        }

        fn find(&self, code: &str) -> Result<Listed, HypervisorError> {
            find(&[self.path("shipped"), self.path("own")], code)
        }
    }

    #[test]
    fn a_name_is_found_only_in_the_list() {
        let dirs = Dirs::new();
        for code in ["a.fd", "b.fd"] {
            dirs.file(code, code);
        }
        dirs.describe("shipped/50-a.json", "a.fd");
        let a = dirs.find("a.fd").unwrap();
        assert_eq!(
            (&a.code, &a.template),
            (&dirs.path("a.fd"), &Some(dirs.path("vars")))
        );
        // A file of that name that is in no list.
        let e = dirs.find("b.fd").unwrap_err().to_string();
        assert!(e.contains("no UEFI firmware \"b.fd\""), "{e}");
        for name in ["", ".", "..", "../a.fd", "shipped/../a.fd"] {
            dirs.find(name).unwrap_err();
        }
        // By its path, an administrator of this host names any file.
        assert_eq!(dirs.find(dirs.path("b.fd").as_str()).unwrap().template, None);
        assert_eq!(dirs.find(dirs.path("a.fd").as_str()).unwrap(), a);
    }

    #[test]
    fn an_administrator_adds_replaces_and_hides() {
        let dirs = Dirs::new();
        dirs.file("a.fd", "");
        fs::create_dir(dirs.path("better")).unwrap();
        dirs.file("better/a.fd", "");
        dirs.describe("shipped/50-a.json", "a.fd");
        dirs.describe("own/60-a.json", "better/a.fd");
        assert_eq!(
            dirs.find("a.fd").unwrap().code,
            dirs.path("a.fd"),
            "the first by name"
        );
        dirs.describe("own/40-a.json", "better/a.fd");
        assert_eq!(dirs.find("a.fd").unwrap().code, dirs.path("better/a.fd"));
        for hidden in ["own/40-a.json", "own/50-a.json", "own/60-a.json"] {
            dirs.file(hidden, "");
        }
        dirs.find("a.fd").unwrap_err();
    }

    #[test]
    fn what_is_no_descriptor_is_passed_over() {
        let dirs = Dirs::new();
        dirs.file("a.fd", "");
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(1 << 17));
        let kernel = r#"{"mapping": {"device": "kernel", "filename": "/a.fd"}}"#;
        let qcow2 =
            r#"{"mapping": {"device": "flash", "executable": {"filename": "/a.fd", "format": "qcow2"}}}"#;
        for (n, text) in ["x", "[]", "{}", &long, kernel, qcow2].iter().enumerate() {
            dirs.file(&format!("shipped/{n}.json"), text);
        }
        fs::create_dir(dirs.path("shipped/7.json")).unwrap();
        dirs.describe("shipped/8.txt", "a.fd");
        dirs.find("a.fd").unwrap_err();
        dirs.describe("shipped/9.json", "a.fd");
        dirs.find("a.fd").unwrap();
        // Opening a directory, a device or a pipe is refused before it happens.
        fs::remove_file(dirs.path("a.fd")).unwrap();
        crate::testing::tool("mkfifo", &[dirs.path("a.fd").as_str()]);
        let e = dirs.find("a.fd").unwrap_err().to_string();
        assert!(e.contains("no regular file"), "{e}");
    }
}
