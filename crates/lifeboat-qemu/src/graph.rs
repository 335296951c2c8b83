//! The block graph of a disk, as QEMU's JSON: what lies below the nodes that [`lifeboat_block::graph`] names.
//!
//! Nothing is opened here, and nothing that an image names by itself appears in a graph.

use std::collections::BTreeMap;

use camino::Utf8Path;
pub(crate) use lifeboat_block::graph::{disk_node, group, top, top_node};
use lifeboat_engine::ports::hypervisor::{DiskImage, ImageLayer, LaunchDisk};
use lifeboat_model::{DiskFormat, DiskId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::layers::{Kind, Layer};

/// Node of an image below the one the guest writes to; `depth` counts from 1.
fn layer_node(depth: usize, id: &DiskId) -> String {
    format!("lay{depth}-{id}")
}

/// One disk's graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiskGraph {
    pub(crate) id: DiskId,
    /// Options of the disk node with everything below.
    pub(crate) node: Value,
    /// Image file of each layer → node name.
    pub(crate) layers: BTreeMap<String, String>,
}

impl DiskGraph {
    /// The graph of `disk`. A plain image has `images`, the one the guest writes to first; a raw one is opened through
    /// `overlay`, see [`crate::tracking_overlay`].
    pub(crate) fn new(disk: &LaunchDisk, images: &[Layer], overlay: Option<&Utf8Path>) -> Self {
        let id = &disk.id;
        let name = disk_node(id);
        let mut layers = BTreeMap::new();
        let node = match (&disk.image, overlay) {
            (DiskImage::Plain { .. }, None) => stacked(id, images, Access::Read, &mut layers),
            (DiskImage::Plain { path, .. }, Some(overlay)) => {
                layers.insert(path.to_string(), name.clone());
                let kind = images.first().map_or(Kind::File, |i| i.kind);
                let data = file(path, kind, Access::Write);
                json!({
                    "driver": "qcow2", "node-name": name, "discard": "unmap",
                    "file": file(overlay, Kind::File, Access::Write), "data-file": data, "backing": null,
                })
            }
            (DiskImage::Chain { layers: chain }, _) => {
                let image = |layer: &ImageLayer| Layer {
                    path: layer.file.clone(),
                    format: layer.format,
                    kind: Kind::File,
                };
                let chain: Vec<Layer> = chain.iter().rev().map(image).collect();
                stacked(id, &chain, Access::Merge, &mut layers)
            }
        };
        Self {
            id: id.clone(),
            node,
            layers,
        }
    }

    /// The file of the layer whose backing file is `file`.
    pub(crate) fn above(&self, file: &str) -> Option<String> {
        let of = |node: &Value| Some(node.pointer("/file/filename")?.as_str()?.to_owned());
        let mut node = &self.node;
        loop {
            let below = node.get("backing")?;
            if of(below).as_deref() == Some(file) {
                return of(node);
            }
            node = below;
        }
    }

    /// Files that the disk's uppermost layer is opened from, for writing.
    pub(crate) fn written(&self) -> Vec<String> {
        ["file", "data-file"]
            .iter()
            .filter_map(|key| Some(self.node.get(key)?.get("filename")?.as_str()?.to_owned()))
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// It is never written to.
    Read,
    /// It is written to only while the images above it are merged into it. The file follows its node, which QEMU opens again
    /// for writing then; a file that was told to be read-only by itself would stay so.
    Merge,
    /// The guest writes to it.
    Write,
}

fn file(path: &Utf8Path, kind: Kind, access: Access) -> Value {
    let driver = match kind {
        Kind::File => "file",
        Kind::Device => "host_device",
    };
    match access {
        Access::Write => json!({"driver": driver, "filename": path, "discard": "unmap"}),
        Access::Read => json!({"driver": driver, "filename": path, "read-only": true}),
        Access::Merge => json!({"driver": driver, "filename": path}),
    }
}

/// The nodes of images that lie on each other: the first is written to, those below it are accessed as `lower` says, and the
/// lowest has nothing below whatever its header says.
fn stacked(id: &DiskId, images: &[Layer], lower: Access, layers: &mut BTreeMap<String, String>) -> Value {
    let mut below = Value::Null;
    for (depth, image) in images.iter().enumerate().rev() {
        let (name, access) = match depth {
            0 => (disk_node(id), Access::Write),
            _ => (layer_node(depth, id), lower),
        };
        layers.insert(image.path.to_string(), name.clone());
        let driver = match image.format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        };
        let mut node =
            json!({"driver": driver, "node-name": name, "file": file(&image.path, image.kind, access)});
        match access {
            Access::Write => node["discard"] = "unmap".into(),
            Access::Read | Access::Merge => node["read-only"] = true.into(),
        }
        if image.format == DiskFormat::Qcow2 {
            node["backing"] = below;
        }
        below = node;
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_named_and_closed_at_the_bottom() {
        let disk = LaunchDisk {
            id: DiskId::new("sys").unwrap(),
            bus: lifeboat_model::vm::DiskBus::Virtio,
            image: DiskImage::Chain {
                layers: ["/s/1", "/s/2"]
                    .map(|file| ImageLayer {
                        file: file.into(),
                        format: DiskFormat::Qcow2,
                    })
                    .into(),
            },
        };
        let g = DiskGraph::new(&disk, &[], None);
        let expected = json!({
            "driver": "qcow2", "node-name": "disk-sys", "discard": "unmap",
            "file": {"driver": "file", "filename": "/s/2", "discard": "unmap"},
            "backing": {
                "driver": "qcow2", "node-name": "lay1-sys", "read-only": true,
                "file": {"driver": "file", "filename": "/s/1"}, "backing": null,
            },
        });
        assert_eq!(g.node, expected);
        let layers = [("/s/1", "lay1-sys"), ("/s/2", "disk-sys")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(g.layers, layers.into_iter().collect());
        assert_eq!(g.written(), ["/s/2"]);
    }

    #[test]
    fn only_the_first_of_an_administrators_images_is_written_to() {
        let layer = |path: &str, format, kind| Layer {
            path: path.into(),
            format,
            kind,
        };
        let images = [
            layer("/v/top", DiskFormat::Qcow2, Kind::File),
            layer("/v/mid", DiskFormat::Qcow2, Kind::File),
            layer("/dev/vg/base", DiskFormat::Raw, Kind::Device),
        ];
        let disk = LaunchDisk {
            id: DiskId::new("sys").unwrap(),
            bus: lifeboat_model::vm::DiskBus::Virtio,
            image: DiskImage::Plain {
                path: "/v/top".into(),
                format: DiskFormat::Qcow2,
            },
        };
        let expected = json!({
            "driver": "qcow2", "node-name": "disk-sys", "discard": "unmap",
            "file": {"driver": "file", "filename": "/v/top", "discard": "unmap"},
            "backing": {
                "driver": "qcow2", "node-name": "lay1-sys", "read-only": true,
                "file": {"driver": "file", "filename": "/v/mid", "read-only": true},
                "backing": {
                    "driver": "raw", "node-name": "lay2-sys", "read-only": true,
                    "file": {"driver": "host_device", "filename": "/dev/vg/base", "read-only": true},
                },
            },
        });
        assert_eq!(DiskGraph::new(&disk, &images, None).node, expected);
        // Whatever the header of the lowest one names, nothing is opened below it.
        assert_eq!(
            DiskGraph::new(&disk, &images[..1], None).node["backing"],
            Value::Null
        );
    }
}
