//! How a chain of images is spelled: for QEMU as `blockdev` options with every layer and format given, and inside an
//! image as the relative name of the one below. Pure; nothing is opened here.

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

/// The format of one of our files: bases are raw, everything else is qcow2. Never probed.
pub(crate) fn format_of(file: &Utf8Path) -> &'static str {
    match file.extension() {
        Some("raw") => "raw",
        Some(_) | None => "qcow2",
    }
}

/// The name by which the image `from` refers to `to`; both relative to the replica's directory. Relative, so that the
/// directory can be moved as a whole.
pub(crate) fn reference(from: &Utf8Path, to: &Utf8Path) -> Utf8PathBuf {
    match (from.parent(), to.file_name()) {
        (Some(dir), Some(name)) if to.parent() == Some(dir) => Utf8PathBuf::from(name),
        // Every image lies two directories deep.
        (Some(_) | None, Some(_) | None) => Utf8Path::new("../..").join(to),
    }
}

/// Options that open a chain (lowest first, absolute paths) with its last image writable. QEMU follows no name inside
/// an image, because every backing image is given.
pub(crate) fn blockdev(chain: &[Utf8PathBuf]) -> Value {
    let mut node = Value::Null;
    for (n, file) in chain.iter().enumerate() {
        let top = n + 1 == chain.len();
        let below = std::mem::replace(
            &mut node,
            json!({"driver": format_of(file), "file": {"driver": "file", "filename": file}}),
        );
        if !below.is_null() {
            node["backing"] = below;
        }
        if top {
            node["discard"] = json!("unmap");
        } else {
            node["read-only"] = json!(true);
        }
    }
    node
}

/// A file name for `qemu-img commit` that opens `layer` on `base` whatever its header says.
pub(crate) fn commit_name(base: &Utf8Path, layer: &Utf8Path) -> String {
    let file = |f: &Utf8Path| json!({"driver": format_of(f), "file": {"driver": "file", "filename": f}});
    let mut node = file(layer);
    node["backing"] = file(base);
    format!("json:{node}")
}
