//! Merging a layer into the image below it, and promotion: how the layers below a promoted branch go away. Each step
//! leaves every view as it was: while data is copied down the layer still hides it, afterwards both agree, and only then
//! does the next layer skip it. So any step can be repeated.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::hypervisor::LiveMerge;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{BranchId, DiskFormat, DiskId};

use crate::chain::{Image, commit_name, readable, reference};
use crate::divergence;
use crate::durable;
use crate::error::Result;
use crate::files;
use crate::layer;
use crate::logs::INCOMING;
use crate::manifest::{Branch, Layer, Manifest, Promoted};
use crate::map::{Map, tidy, without};
use crate::qemu_img::{self, Cancel};
use crate::replica::Replica;
use crate::room::Need;

/// Merging stays below this rate in bytes per second, so that guests on the same disks are not starved.
const RATE: &str = "268435456";

/// Copies what the last image of a chain (relative paths) holds into the one before it.
pub(crate) fn copy_down(replica: &Replica, chain: &[Image], cancel: &Cancel) -> Result<()> {
    replica.step("before a layer is copied into the image below")?;
    let chain = replica.absolute(chain);
    let [.., below, layer] = chain.as_slice() else {
        return Ok(());
    };
    // It gives back more than it takes. With all of the reserve kept from it, nothing would ever become free again.
    let more = growth(below, layer);
    if more > 0 {
        replica.take(more, Need::Urgent)?;
    }
    let name = commit_name(&chain);
    let merged = in_place(&below.file, || {
        qemu_img::run(&["commit", "-q", "-d", "-r", RATE, &name], &below.file, cancel)
    });
    merged?;
    if replica.faults.failing() {
        in_place(&below.file, || same_content(&chain, cancel))?;
        replica.proved(&below.file);
    }
    replica.step("after a layer was copied into the image below")
}

/// Bytes by which the image below grows on disk when a layer is merged into it, at most.
fn growth(below: &Image, layer: &Image) -> u64 {
    /// Bytes of the disk that are gone through at once.
    const WINDOW: u64 = 1 << 30;
    let most = files::usage(&layer.file);
    let raw = below.format == DiskFormat::Raw;
    let base = std::fs::File::open(&below.file).ok().filter(|_| raw);
    let map = layer::size_of(layer)
        .and_then(|size| Map::open(&layer.file, size))
        .ok();
    let (Some(base), Some(map)) = (base, map) else {
        return most;
    };
    let in_window = |(from, to): (u64, u64)| {
        let pieces = map.pieces(from, to).ok()?;
        let data = pieces
            .iter()
            .filter(|p| p.host.is_some())
            .map(|p| (p.offset, p.len));
        let new = without(&tidy(data.collect()), &files::stored(&base, from, to));
        Some(new.iter().map(|(_, len)| len).sum::<u64>())
    };
    let sum: Option<u64> = map.windows(WINDOW).map(in_window).sum();
    sum.map_or(most, |new| new.min(most))
}

/// Changes an image that has to stay where it is. When that fails the kernel must not go on believing what the medium
/// may not have: the change is made again on what is there. Until it succeeds no view depends on it.
fn in_place(path: &Utf8Path, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let changed = durable::write(path, || Ok(()))
        .and_then(|()| change())
        .and_then(|()| files::sync_file(path));
    if matches!(changed, Err(StoreError::Failing { .. })) {
        durable::drop_cache(path)?;
    }
    changed
}

/// Reads from a medium that failed before whether the last image of a chain hides nothing from the one below any more.
fn same_content(chain: &[Image], cancel: &Cancel) -> Result<()> {
    let [below @ .., layer] = chain else { return Ok(()) };
    let Some(top) = below.last() else { return Ok(()) };
    durable::drop_cache(&top.file)?;
    let size = layer::size_of(layer)?;
    let mut without = below.to_vec();
    // The disk may be smaller than it was when the image below was made: what is compared has its size.
    let view = top.file.with_extension("view.qcow2");
    let cut = size < layer::size_of(top)?;
    if cut {
        layer::create(&view, size, &top.file, top.format)?;
        without.push(Image::layer(&view));
    }
    let views = [chain, &without].map(|c| format!("json:{}", readable(c)));
    let [with, without] = &views;
    let same = qemu_img::run(&["compare", "-q", "-U", with, without], &top.file, cancel);
    if cut {
        files::remove(&view)?;
    }
    same.map_err(|e| StoreError::Failing {
        path: top.file.clone(),
        what: "reading back what was merged",
        source: std::io::Error::other(e),
    })
}

/// Makes an image refer to another one instead of the layer that was merged into that.
pub(crate) fn stand_on(replica: &Replica, file: &Utf8Path, below: &Image, cancel: &Cancel) -> Result<()> {
    replica.step("before an image refers to another")?;
    let image = replica.dir.join(file);
    let name = reference(file, &below.file);
    let args = [
        "rebase",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        below.format(),
        "-b",
        name.as_str(),
    ];
    let args: Vec<&str> = args.into_iter().chain([image.as_str()]).collect();
    in_place(&image, || qemu_img::run(&args, &image, cancel))
}

/// Makes a branch the VM's disks.
pub(crate) fn promote(replica: &Replica, id: BranchId) -> Result<()> {
    let manifest = replica.manifest();
    if manifest.promoted.as_ref().is_none_or(|p| p.branch != id) {
        manifest.not_promoted()?;
        let branch = complete(&manifest, id)?;
        let below = branch.layers.iter().map(|layer| {
            let chain = manifest.branch_chain(branch, layer);
            let upto = chain.len().saturating_sub(1);
            let files = chain.into_iter().take(upto).skip(1).map(|i| i.file);
            crate::manifest::Below {
                disk: layer.disk.clone(),
                files: files.collect(),
                merged: false,
            }
        });
        let promoted = Promoted {
            branch: id,
            below: below.collect(),
        };
        let (position, layers) = (branch.position, branch.layers.clone());
        let mut state = replica.state.blocking_lock();
        let divergence = divergence::of_promotion(replica, &state, branch)?;
        replica.step("before the ranges are written")?;
        let divergence = divergence::save(&replica.dir, manifest.next_layer, &divergence)?;
        replica.commit(&mut state, |m| {
            m.applied = position;
            m.disks.clear();
            m.disks.extend(layers.iter().map(|l| lifeboat_deltalog::LogDisk {
                id: l.disk.clone(),
                size: l.size,
            }));
            m.points.clear();
            m.head = None;
            m.merged = None;
            m.adopted = None;
            // The branch may need it; what of it the branch hides is discarded with the rest.
            m.kept = None;
            m.divergence = Some(divergence);
            m.next_layer += 1;
            m.branches.retain(|b| b.id == id);
            for branch in &mut m.branches {
                // Its layer is listed in `below` now.
                branch.replay.clear();
            }
            m.promoted = Some(promoted);
        })?;
        state.logs.entries.clear();
    }
    // The files change under the VM from now on.
    crate::scrub::forget(replica)?;
    drop_parts(replica)?;
    replica.sweep()
}

/// Removes every transfer under way.
pub(crate) fn drop_parts(replica: &Replica) -> Result<()> {
    let incoming = replica.dir.join(INCOMING);
    for name in files::names(&incoming)? {
        files::remove(&incoming.join(name))?;
    }
    Ok(())
}

/// The complete branch with this id.
pub(crate) fn complete(manifest: &Manifest, id: BranchId) -> Result<&Branch> {
    let branch = manifest.branch(id).filter(|b| b.complete);
    branch.ok_or(StoreError::NoBranch(id))
}

fn promoted(manifest: &Manifest, id: BranchId) -> Result<&Promoted> {
    let promoted = manifest.promoted.as_ref().filter(|p| p.branch == id);
    promoted
        .ok_or_else(|| StoreError::Conflict(format!("branch {id} is not the disks of VM {}", manifest.vm)))
}

fn own_layer(manifest: &Manifest, id: BranchId, disk: &DiskId) -> Result<Layer> {
    let layers = &complete(manifest, id)?.layers;
    let layer = layers.iter().find(|l| l.disk == *disk).cloned();
    layer.ok_or(StoreError::NoBranch(id))
}

/// What is still to be merged below a promoted branch.
pub(crate) fn promoted_layers(replica: &Replica, id: BranchId) -> Result<Vec<LiveMerge>> {
    let manifest = replica.manifest();
    let below = &promoted(&manifest, id)?.below;
    let merge = |disk: &DiskId, top: &Utf8PathBuf| LiveMerge {
        id: disk.clone(),
        top: replica.dir.join(top),
        base: replica.dir.join(manifest.base(disk).file),
    };
    Ok(below
        .iter()
        .filter_map(|b| b.files.last().map(|top| merge(&b.disk, top)))
        .collect())
}

/// Merges those layers, lowest first, while they are not in use.
pub(crate) fn merge_promoted(replica: &Replica, id: BranchId, cancel: &Cancel) -> Result<()> {
    loop {
        let manifest = replica.manifest();
        let below = &promoted(&manifest, id)?.below;
        let Some(next) = below.iter().find(|b| !b.files.is_empty()) else {
            return replica.sweep();
        };
        let disk = next.disk.clone();
        let Some(lowest) = next.files.first() else {
            continue;
        };
        if !next.merged {
            let chain = [manifest.base(&disk), Image::layer(lowest)];
            copy_down(replica, &chain, cancel)?;
            change_below(replica, &disk, |b| b.merged = true)?;
        }
        let above = match next.files.get(1) {
            Some(above) => above.clone(),
            None => own_layer(&manifest, id, &disk)?.file,
        };
        stand_on(replica, &above, &manifest.base(&disk), cancel)?;
        change_below(replica, &disk, |b| {
            b.files.remove(0);
            b.merged = false;
        })?;
        replica.sweep()?;
    }
}

fn change_below(
    replica: &Replica,
    disk: &DiskId,
    change: impl Fn(&mut crate::manifest::Below),
) -> Result<()> {
    replica.change(|m| {
        let below = m.promoted.iter_mut().flat_map(|p| &mut p.below);
        below.filter(|b| b.disk == *disk).for_each(change);
    })
}

/// After the running VM merged the layers itself: believes the images, not the caller.
pub(crate) fn merged_live(replica: &Replica, id: BranchId) -> Result<()> {
    let manifest = replica.manifest();
    let mut left = Vec::new();
    for below in promoted(&manifest, id)?
        .below
        .iter()
        .filter(|b| !b.files.is_empty())
    {
        let layer = own_layer(&manifest, id, &below.disk)?;
        if stands_on_base(replica, &manifest.base(&below.disk), &layer)? {
            change_below(replica, &below.disk, |b| {
                b.files.clear();
                b.merged = false;
            })?;
        } else {
            left.push(below.disk.to_string());
        }
    }
    replica.sweep()?;
    if left.is_empty() {
        return Ok(());
    }
    let disks = left.join(", ");
    Err(StoreError::Conflict(format!(
        "the layers of disk {disks} are not merged yet"
    )))
}

/// Whether the image refers to the base directly, by whatever path its writer chose.
fn stands_on_base(replica: &Replica, base: &Image, layer: &Layer) -> Result<bool> {
    let image = replica.dir.join(&layer.file);
    let Some(name) = layer::backing(&image)? else {
        return Ok(false);
    };
    let dir = image.parent().unwrap_or(&replica.dir);
    let said = dir.join(name).canonicalize_utf8().ok();
    let base = replica.dir.join(&base.file).canonicalize_utf8().ok();
    Ok(said.is_some() && said == base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::run_ok;

    /// A disk that had 2 MiB when the base was made and has one now.
    #[tokio::test]
    async fn what_was_merged_below_a_smaller_disk_is_compared_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Utf8PathBuf::from_path_buf(dir.path().join(name)).unwrap();
        let (base, layer) = (at("base.raw"), at("layer.qcow2"));
        run_ok("qemu-img", &["create", "-q", "-f", "raw", base.as_str(), "2M"]);
        run_ok(
            "qemu-io",
            &["-f", "raw", "-c", "write -P 7 1500k 64k", base.as_str()],
        );
        layer::create(&layer, 1 << 20, &base, DiskFormat::Raw).unwrap();
        run_ok(
            "qemu-io",
            &["-f", "qcow2", "-c", "write -P 9 64k 64k", layer.as_str()],
        );
        let own = |file: &Utf8PathBuf, format| Image {
            file: file.clone(),
            format,
            ours: true,
        };
        let chain = [own(&base, DiskFormat::Raw), own(&layer, DiskFormat::Qcow2)];
        let (_go_on, cancel) = Cancel::new();
        // It waits for a program, which only blocking threads may.
        let compared = async || {
            let (chain, cancel) = (chain.clone(), cancel.clone());
            let compare = tokio::task::spawn_blocking(move || same_content(&chain, &cancel));
            compare.await.unwrap()
        };
        let before = compared().await;
        assert!(
            matches!(before, Err(StoreError::Failing { .. })),
            "not merged yet: {before:?}"
        );
        run_ok(
            "qemu-io",
            &["-f", "raw", "-c", "write -P 9 64k 64k", base.as_str()],
        );
        compared().await.unwrap();
        assert!(!at("base.view.qcow2").exists());
    }
}
