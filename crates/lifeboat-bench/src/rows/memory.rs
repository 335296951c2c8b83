//! Memory of an idle daemon, alone and with many relationships. The relationships are real ones, of VMs that are off.

use std::thread;

use anyhow::{Result, anyhow};

use crate::Bench;
use crate::process::{memory_mib, output};
use crate::report::{Line, Part, Verdict};
use crate::world::{Vm, World};

/// As many as the budget names.
const RELATIONSHIPS: u32 = 500;

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let empty = {
        let world = World::start(bench, &[])?;
        memory_mib(world.a.pid()?, "VmRSS")?
    };
    let disks = bench.root.join("many");
    std::fs::create_dir_all(&disks)?;
    let first = disks.join("0.qcow2");
    output(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", &first.to_string_lossy(), "64M"],
    )?;
    let mut vms = Vec::new();
    for n in 0..RELATIONSHIPS {
        let disk = disks.join(format!("{n}.qcow2"));
        if n > 0 {
            std::fs::copy(&first, &disk)?;
        }
        vms.push(Vm::new(format!("vm{n}"), 64, vec![("sys", disk)]));
    }
    let mut world = World::start(bench, &vms)?;
    let peer = world.peer();
    let enable = |half: &[Vm]| {
        half.iter().try_for_each(|vm| {
            world
                .a
                .ok(&["replication", "enable", &vm.name, "--to", &peer])
                .map(drop)
        })
    };
    let (left, right) = vms.split_at(vms.len() / 2);
    thread::scope(|s| {
        let other = s.spawn(|| enable(right));
        let done = enable(left);
        other
            .join()
            .map_err(|_| anyhow!("the other half failed"))?
            .and(done)
    })?;
    // What they cost in the long run, not what making them left behind.
    world.a.restart()?;
    world.b.restart()?;
    let (a, b) = (
        memory_mib(world.a.pid()?, "VmRSS")?,
        memory_mib(world.b.pid()?, "VmRSS")?,
    );
    let line = Line {
        what: "daemon memory, idle with 500 relationships",
        budget: "≤ 64 MiB",
        measured: format!("{a:.1} MiB primary, {b:.1} MiB replica (without any: {empty:.1} MiB)"),
        verdict: Verdict::of(a.max(b) <= 64.0),
        why: "resident size; relationships of VMs that are off".into(),
    };
    Ok(Part {
        lines: vec![line],
        details: Vec::new(),
    })
}
