//! Judges a replica without Lifeboat: points are read as docs/recovery-without-lifeboat.md says, by `qemu-img`, and compared
//! with the record of what was written. What a failover brings up is read the same way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_faults::history::Verdict;
use lifeboat_faults::random::Random;
use lifeboat_faults::volume::run;
use serde_json::Value;

use crate::report::{Class, Report};
use crate::world::{ANY_POINT, DISKS, VM, World, lock, now_ms};

/// What is remembered of points between looks at them.
pub(crate) struct Judge {
    pub(crate) report: Report,
    /// For each point, the write it ends at: that never changes.
    points: BTreeMap<String, u64>,
}

/// A disk as an image shows it. `raw` is a file for what is read.
fn read_image(raw: &Path, image: &Path, format: &str) -> Result<Vec<u8>> {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", format, "-O", "raw"]);
    run(convert.arg(image).arg(raw))?;
    let bytes = std::fs::read(raw)?;
    std::fs::remove_file(raw)?;
    Ok(bytes)
}

/// The VM's own disks, which nobody writes to.
pub(crate) fn read_disks(world: &World) -> Result<Vec<Vec<u8>>> {
    let paths = world.disk_paths();
    let disks = paths.iter().zip(DISKS);
    disks
        .map(|(path, (_, format))| read_image(&world.scratch("image.raw"), path, format))
        .collect()
}

/// The images of all disks that these layers of the manifest in `replica` name. `raw` is a file for what is read.
pub(crate) fn read_layers(replica: &Path, raw: &Path, layers: &Value) -> Result<Vec<Vec<u8>>> {
    DISKS
        .iter()
        .map(|(disk, _)| {
            let all = layers.as_array().into_iter().flatten();
            let file = all.into_iter().find(|l| l["disk"] == *disk);
            let file = file.and_then(|l| l["file"].as_str());
            let file = file.with_context(|| format!("no layer of disk {disk}"))?;
            read_image(raw, &replica.join(file), "qcow2")
        })
        .collect()
}

fn layers_of(world: &World, layers: &Value) -> Result<Vec<Vec<u8>>> {
    read_layers(&world.replica(), &world.scratch("image.raw"), layers)
}

pub(crate) fn manifest(world: &World) -> Result<Value> {
    let path = world.replica().join("manifest.json");
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

impl Judge {
    pub(crate) fn new(report: Report) -> Self {
        Self {
            report,
            points: BTreeMap::new(),
        }
    }

    /// Every recovery point is what it claims to be and what it was before. Nobody uses the replica meanwhile.
    pub(crate) fn points(&mut self, world: &World) {
        let manifest = match manifest(world) {
            Ok(manifest) => manifest,
            Err(error) => {
                let text = format!("the replica's manifest cannot be read: {error:#}");
                return self.report.add(Class::Loss, text);
            }
        };
        for point in manifest["points"].as_array().into_iter().flatten() {
            if point["loose"] == true {
                continue;
            }
            let (id, instant) = (point["id"].as_str().unwrap_or(""), &point["instant"]);
            let instant = instant.as_u64().unwrap_or(0);
            match layers_of(world, &point["layers"]) {
                Err(error) => {
                    let text = format!("point {id} cannot be read: {error:#}");
                    self.report.add(Class::Loss, text);
                }
                Ok(images) => {
                    self.report.count("points judged", 1);
                    self.point(world, id, instant, &images);
                }
            }
        }
    }

    fn point(&mut self, world: &World, id: &str, instant: u64, images: &[Vec<u8>]) {
        let what = format!("point {id} of {instant}");
        let Some(from) = self.state(world, &what, images, instant) else {
            return;
        };
        let before = *self.points.entry(id.to_owned()).or_insert(from);
        if before != from {
            let text = format!("{what} ended at write {before} and now ends at write {from}");
            self.report.add(Class::Loss, text);
        }
    }

    /// These images are a state the disks have had, not older than the instant; the number of writes in it.
    fn state(&mut self, world: &World, what: &str, images: &[Vec<u8>], instant: u64) -> Option<u64> {
        let Some(time) = world.timeline.truth(instant) else {
            self.report.count("not judged: instants while a clock was set", 1);
            return None;
        };
        let history = lock(&world.history);
        let needed = history.complete_before(time);
        match history.judge(images, Some(time)) {
            Verdict::Wrong(why) => {
                let text = format!("{what} is no state the disks ever had: {why}");
                self.report.add(Class::Loss, text);
                None
            }
            Verdict::State { from, to } => {
                if to < needed {
                    let text = format!("{what} ends at write {to}; {needed} were complete before");
                    self.report.add(Class::Loss, text);
                }
                Some(from)
            }
        }
    }

    /// With the daemon of the replica up and the primary out of reach: whoever needs the replica now gets everything that
    /// was acknowledged, at the newest instant and at one of the others.
    pub(crate) fn failovers(
        &mut self,
        world: &World,
        acknowledged: &BTreeMap<u64, u64>,
        random: &mut Random,
    ) {
        let Some(listed) = self.listed(world) else {
            return;
        };
        let instant = |p: &Value| p["instant"].as_u64().unwrap_or(0);
        let kept = now_ms().saturating_sub(u64::try_from(ANY_POINT.as_millis()).unwrap_or(0)) + 1500;
        for (_, told) in acknowledged.range(kept..) {
            if !listed.iter().any(|p| instant(p) == *told) {
                let newest = listed.iter().map(instant).max().unwrap_or(0);
                let text = format!("{told} was acknowledged and is not listed; the newest is {newest}");
                self.report.add(Class::Loss, text);
            }
        }
        let told = acknowledged.last_key_value().map_or(0, |(_, told)| *told);
        self.failover(world, "the newest data", &[], told);
        let listed = self.listed(world).unwrap_or_default();
        if listed.is_empty() {
            return;
        }
        let point = random.one_of(&listed);
        let id = point["id"].as_str().unwrap_or("");
        let what = format!("a failover to {id} of {}", instant(point));
        if let Err(refused) = self.try_failover(world, &what, &["--point", id], instant(point)) {
            // It may have expired between the list and the command.
            let now = self.listed(world).unwrap_or_default();
            if now.iter().any(|p| p["id"] == id) {
                let text = format!("{what} cannot be brought up: {refused:#}");
                self.report.add(Class::Loss, text);
            }
        }
    }

    /// The points and cycles that the replica lists.
    fn listed(&mut self, world: &World) -> Option<Vec<Value>> {
        match world
            .b
            .get(&format!("/api/v1/vms/{VM}/points"), Duration::from_secs(10))
        {
            Ok(listed) => Some(listed.as_array().cloned().unwrap_or_default()),
            Err(error) => {
                let text = format!("the replica's points are not listed: {error:#}");
                self.report.add(Class::Loss, text);
                None
            }
        }
    }

    /// One failover, judged and reverted. It has to be possible.
    pub(crate) fn failover(&mut self, world: &World, what: &str, point: &[&str], instant: u64) {
        if let Err(refused) = self.try_failover(world, what, point, instant) {
            let text = format!("{what} cannot be brought up: {refused:#}");
            self.report.add(Class::Loss, text);
        }
    }

    /// One failover, judged and reverted; or why it was refused.
    pub(crate) fn try_failover(
        &mut self,
        world: &World,
        what: &str,
        point: &[&str],
        instant: u64,
    ) -> Result<()> {
        let mut start = vec!["failover", "start", VM, "--no-start", "--force"];
        start.extend(point);
        world.b.ok(&start)?;
        let images = manifest(world).and_then(|manifest| {
            let branch = manifest["branches"].as_array().and_then(|b| b.last());
            layers_of(world, &branch.context("no branch")?["layers"])
        });
        match images {
            Ok(images) => {
                self.report.count("failovers judged", 1);
                // What the newest data is may have arrived after the last word about it.
                let _ = self.state(world, what, &images, instant);
            }
            Err(error) => {
                let text = format!("{what} was brought up and its disks cannot be read: {error:#}");
                self.report.add(Class::Loss, text);
            }
        }
        // Without force it is refused where nothing newer is known to be good.
        let reverted = world.b.ok(&["failover", "revert", VM]);
        let reverted = reverted.or_else(|e| {
            if e.to_string().contains("--force") {
                self.report.count("reverts that needed force", 1);
                world.b.ok(&["failover", "revert", VM, "--force"])
            } else {
                Err(e)
            }
        });
        if let Err(error) = reverted {
            let text = format!("a failover cannot be reverted: {error:#}");
            self.report.add(Class::Stuck, text);
        }
        Ok(())
    }
}
