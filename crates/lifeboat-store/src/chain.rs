//! How a chain of images is spelled: for `qemu-img` and `qemu-nbd` as options with every layer and format given, and inside
//! an image as the relative name of the one below. Pure; nothing is opened here.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::DiskFormat;
use serde_json::{Value, json};

/// One image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Relative to the replica's directory, or absolute.
    pub(crate) file: Utf8PathBuf,
    /// As it was recorded; an image is never probed for its format.
    pub(crate) format: DiskFormat,
    /// Only this program writes it, so its features are known. Others are read through QEMU.
    pub(crate) ours: bool,
}

impl Image {
    /// A layer of ours. Branches are written by QEMU, only the logs replayed below one are not.
    pub(crate) fn layer(file: &Utf8Path) -> Self {
        let branch = file.starts_with("branches") && !file.as_str().ends_with(".replay.qcow2");
        Self {
            file: file.to_owned(),
            format: DiskFormat::Qcow2,
            ours: !branch,
        }
    }

    /// As QEMU spells the format.
    pub(crate) fn format(&self) -> &'static str {
        match self.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// The name by which the image `from` refers to `to`; both relative to the replica's directory. Relative, so that the
/// directory can be moved as a whole. Images outside it are named as they are.
pub(crate) fn reference(from: &Utf8Path, to: &Utf8Path) -> Utf8PathBuf {
    match (from.parent(), to.file_name()) {
        (Some(_) | None, Some(_) | None) if to.is_absolute() => to.to_owned(),
        (Some(dir), Some(name)) if to.parent() == Some(dir) => Utf8PathBuf::from(name),
        // Every image lies two directories deep.
        (Some(_) | None, Some(_) | None) => Utf8Path::new("../..").join(to),
    }
}

/// Options that open a chain (lowest first, absolute paths) for reading only. No name inside an image is followed, because every
/// backing image is given.
pub(crate) fn readable(chain: &[Image]) -> Value {
    nested(chain, chain.len())
}

/// A file name for `qemu-img commit` that opens the last image on the one before it whatever its header says; both, and
/// nothing below them, can be written to.
pub(crate) fn commit_name(chain: &[Image]) -> String {
    format!("json:{}", nested(chain, chain.len().saturating_sub(2)))
}

/// The first `read_only` images cannot be written to.
fn nested(chain: &[Image], read_only: usize) -> Value {
    let mut node = Value::Null;
    for (n, image) in chain.iter().enumerate() {
        let below = std::mem::replace(
            &mut node,
            json!({"driver": image.format(), "file": {"driver": "file", "filename": image.file}}),
        );
        match image.format {
            // Null at the bottom: whatever its header names is not opened.
            DiskFormat::Qcow2 => node["backing"] = below,
            DiskFormat::Raw => {}
        }
        if n < read_only {
            node["read-only"] = json!(true);
        }
    }
    node
}
