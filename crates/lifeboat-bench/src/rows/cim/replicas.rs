//! A host with many replicas that have many points, made quickly: one is real, made by the store from logs; the others are
//! copies of its files under names of their own, which share the sealed layers by hard links. The daemon that opens them
//! cannot tell.

use crate::rows::failover::Replica;
use anyhow::{Context, Result};
use camino::Utf8Path;
use lifeboat_catalog::SqliteCatalog;
use lifeboat_engine::point_guid;
use lifeboat_engine::ports::catalog::Catalog;
use lifeboat_engine::ports::store::ImageStore;
use lifeboat_engine::records::{Relationship, ReplicaSide, Side};
use lifeboat_model::{
    Bandwidth, DiskId, GenerationId, PointId, Position, ReplicationMode, ReplicationSettings,
    ReplicationState, Timestamp, VmId, VmSpec,
};
use serde_json::Value;
use std::fs;
use std::time::SystemTime;
use uuid::Uuid;

/// Bytes of each replica's only disk.
const DISK: u64 = 1 << 20;
/// The store's description of a replica.
const MANIFEST: &str = "manifest.json";

/// A replica that was made.
pub(super) struct Made {
    pub(super) vm: VmId,
    /// How the management API names its points.
    pub(super) names: Vec<Uuid>,
    points: Vec<PointId>,
}

/// Makes `vms` replicas with `points` sealed points each below `location`, and enters them into the catalog in `state`.
pub(super) async fn make(
    location: &Utf8Path,
    state: &Utf8Path,
    vms: usize,
    points: usize,
) -> Result<Vec<Made>> {
    let beside = location.with_file_name("template");
    fs::create_dir_all(&beside)?;
    let mut real = Replica::new(&beside, DISK).await?;
    while real.points.len() < points {
        real.add_point().await?;
    }
    real.store.close(real.vm).await;
    let manifest: Value = serde_json::from_slice(&fs::read(real.dir.join(MANIFEST))?)?;
    let sealed: Vec<Value> = serde_json::from_value(manifest.get("points").cloned().unwrap_or_default())?;
    let positions = sealed.iter().map(|point| {
        let at = point.get("position").context("a point has no position")?;
        Ok(serde_json::from_value(at.clone())?)
    });
    let positions = positions.collect::<Result<Vec<Position>>>()?;
    let catalog = SqliteCatalog::open(&state.join("catalog.sqlite"))?;
    let mut made = Vec::new();
    for n in 0..vms {
        // Each VM's data has a generation of its own.
        let generation = GenerationId(Uuid::new_v4());
        let own = |at: &Position| Position::from_parts(generation, at.sequence());
        let copy = Made {
            vm: VmId(Uuid::new_v4()),
            names: positions.iter().map(|at| point_guid(own(at))).collect(),
            points: real.points.iter().map(|_| PointId(Uuid::new_v4())).collect(),
        };
        let dir = location.join(copy.vm.to_string());
        link_tree(&real.dir.join("disks"), &dir.join("disks"))?;
        let text = serde_json::to_string_pretty(&renamed(manifest.clone(), &copy)?)?;
        let text = text.replace(&real.at.generation().0.to_string(), &generation.0.to_string());
        fs::write(dir.join(MANIFEST), text)?;
        catalog
            .put(&relationship(n, copy.vm, &dir, own(&real.at))?, &[], &[])
            .await?;
        made.push(copy);
    }
    Ok(made)
}

/// The same files under another name.
fn link_tree(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in from.read_dir_utf8()? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_tree(entry.path(), &there)?
        } else {
            fs::hard_link(entry.path(), there)?
        }
    }
    Ok(())
}

/// The manifest with another VM and other points. The logs stay behind: nothing above the newest point needs them.
fn renamed(mut manifest: Value, copy: &Made) -> Result<Value> {
    let vm = manifest.get_mut("vm").context("the manifest names no VM")?;
    *vm = serde_json::to_value(copy.vm)?;
    let points = manifest.get_mut("points").and_then(Value::as_array_mut);
    for (point, id) in points
        .context("the manifest has no points")?
        .iter_mut()
        .zip(&copy.points)
    {
        let old = point.get_mut("id").context("a point has no id")?;
        *old = serde_json::to_value(id)?;
    }
    Ok(manifest)
}

fn relationship(n: usize, vm: VmId, dir: &Utf8Path, at: Position) -> Result<Relationship> {
    let disk = DiskId::new("sys")?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = Timestamp(u64::try_from(since.as_millis())?);
    let spec: VmSpec = serde_json::from_value(serde_json::json!({
        "name": format!("vm{n}"),
        "uuid": vm,
        "memory_mib": 1024,
        "cpus": 2,
        "disk": [{"id": disk, "path": "/nowhere/sys.qcow2", "format": "qcow2"}],
    }))?;
    Ok(Relationship {
        vm,
        mode: ReplicationMode::Replica,
        state: ReplicationState::Replicating,
        settings: ReplicationSettings {
            peer: "beta.bench:1".to_owned(),
            interval_s: 300,
            history: 24,
            point_spacing_s: 3600,
            any_point_window_s: 0,
            disks: vec![disk],
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: Bandwidth::default(),
        },
        spec,
        peer: "alpha.bench".to_owned(),
        position: at,
        side: Side::Replica(ReplicaSide::new(dir.to_string())),
        created: now,
        last_replication: Some(now),
        newest_instant: Some(now),
        ..Relationship::default()
    })
}
