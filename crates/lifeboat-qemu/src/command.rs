//! The command line of a VM's process. Everything that can be JSON is, so that no path or name is ever split. Whatever the
//! process uses of this host's files it is given open, see [`crate::handed`].

use std::io;

use camino::Utf8Path;
use lifeboat_engine::ports::hypervisor::Launch;
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{Hardware, NicBackend, VmSpec};
use serde_json::{Value, json};

use crate::config::VmPaths;
use crate::firmware::Flash;
use crate::graph::{self, DiskGraph};
use crate::handed::{Access, Handed};
use crate::preflight::Ready;
use crate::probe::SANDBOX;
use crate::seed;

/// Arguments that start `launch` with its CPUs stopped. An error names the file that cannot be opened.
pub(crate) fn arguments(
    launch: &Launch,
    graphs: &[DiskGraph],
    paths: &VmPaths,
    ready: &Ready,
    handed: &mut Handed,
) -> io::Result<Vec<String>> {
    let spec = &launch.spec;
    let Hardware::Own(hardware) = &spec.hardware;
    let mut a = Arguments(Vec::new());
    a.add("-name", &format!("guest={},debug-threads=on", escape(&spec.name)));
    a.add("-uuid", &spec.uuid.to_string());
    a.flags(&["-no-user-config", "-nodefaults", "-S"]);
    a.add("-display", "none");
    a.add("-sandbox", SANDBOX);
    a.add("-rtc", "base=utc");
    a.add("-msg", "timestamp=on");
    a.add("-accel", ready.accel);
    a.add("-cpu", &hardware.cpu);
    a.add("-m", &format!("{}M", spec.memory_mib));
    a.add("-smp", &spec.cpus.to_string());
    machine(&mut a, &hardware.machine, ready.flash.as_ref(), handed)?;
    monitors(&mut a, paths, handed)?;
    a.json("-device", &json!({"driver": "VGA", "id": "video"}));
    a.json(
        "-object",
        &json!({"qom-type": "rng-random", "id": "rng", "filename": "/dev/urandom"}),
    );
    a.json("-device", &json!({"driver": "virtio-rng-pci", "rng": "rng"}));
    if spec.guest_agent {
        a.add("-chardev", &socket("agent", &paths.agent(), handed)?);
        a.json("-device", &json!({"driver": "virtio-serial-pci", "id": "serial"}));
        a.json(
            "-device",
            &json!({"driver": "virtserialport", "chardev": "agent", "name": "org.qemu.guest_agent.0"}),
        );
    }
    disks(&mut a, launch, graphs, handed)?;
    nics(&mut a, spec, handed)?;
    // Last of all devices, so that no other one is found in another slot because of it.
    if !launch.seed.is_empty() {
        seed::arguments(paths, handed)?
            .iter()
            .for_each(|(option, value)| a.json(option, value));
    }
    Ok(a.0)
}

struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, option: &str, value: &str) {
        self.0.extend([option.to_owned(), value.to_owned()]);
    }

    fn json(&mut self, option: &str, value: &Value) {
        self.add(option, &value.to_string());
    }

    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|f| (*f).to_owned()));
    }
}

/// In the options that cannot be JSON a comma is written twice.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn socket(id: &str, path: &Utf8Path, handed: &mut Handed) -> io::Result<String> {
    let number = handed.listener(path)?;
    Ok(format!("socket,id={id},fd={number},server=on,wait=off"))
}

fn machine(a: &mut Arguments, machine: &str, flash: Option<&Flash>, handed: &mut Handed) -> io::Result<()> {
    let mut machine = machine.to_owned();
    if let Some(Flash { code, vars, .. }) = flash {
        let mut flash = |node: &str, path: &Utf8Path, read_only: bool| {
            handed.node(&json!({
                "driver": "raw", "node-name": node, "read-only": read_only,
                "file": {"driver": "file", "filename": path, "read-only": read_only},
            }))
        };
        a.json("-blockdev", &flash("uefi-code", code, true)?);
        a.json("-blockdev", &flash("uefi-vars", vars, false)?);
        machine.push_str(",pflash0=uefi-code,pflash1=uefi-vars");
    }
    a.add("-machine", &machine);
    Ok(())
}

fn monitors(a: &mut Arguments, paths: &VmPaths, handed: &mut Handed) -> io::Result<()> {
    for (id, path) in [
        ("qmp", paths.control()),
        ("capture", paths.capture()),
        ("merge", paths.merge()),
    ] {
        a.add("-chardev", &socket(id, &path, handed)?);
        a.add("-mon", &format!("chardev={id},mode=control"));
    }
    let log = handed.file(paths.file("console.log").as_str(), Access::Append)?;
    let console = socket("console", &paths.file("console.sock"), handed)?;
    a.add("-chardev", &format!("{console},logfile={log},logappend=on"));
    a.add("-serial", "chardev:console");
    Ok(())
}

fn disks(a: &mut Arguments, launch: &Launch, graphs: &[DiskGraph], handed: &mut Handed) -> io::Result<()> {
    let Hardware::Own(hardware) = &launch.spec.hardware;
    let io = hardware.iothreads;
    if launch.disks.iter().any(|d| d.bus == DiskBus::Scsi) {
        let mut controller = json!({"driver": "virtio-scsi-pci", "id": "scsi"});
        if io {
            a.json("-object", &json!({"qom-type": "iothread", "id": "io-scsi"}));
            controller["iothread"] = "io-scsi".into();
        }
        a.json("-device", &controller);
    }
    for (index, (disk, graph)) in launch.disks.iter().zip(graphs).enumerate() {
        let id = &disk.id;
        a.json(
            "-object",
            &json!({"qom-type": "throttle-group", "id": graph::group(id)}),
        );
        a.json("-blockdev", &handed.node(&graph.node)?);
        a.json("-blockdev", &graph::top(id, &graph::disk_node(id)));
        let driver = match disk.bus {
            DiskBus::Virtio => "virtio-blk-pci",
            DiskBus::Scsi => "scsi-hd",
            DiskBus::Ide => "ide-hd",
        };
        // The serial gives the disk the same by-id name in the guest wherever it runs.
        let mut device = json!({
            "driver": driver, "id": format!("vd-{id}"), "drive": graph::top_node(id),
            "bootindex": index + 1, "serial": id,
        });
        match disk.bus {
            DiskBus::Virtio if io => {
                let thread = format!("io-{id}");
                a.json("-object", &json!({"qom-type": "iothread", "id": thread}));
                device["iothread"] = thread.into();
            }
            DiskBus::Scsi => device["bus"] = "scsi.0".into(),
            DiskBus::Virtio | DiskBus::Ide => {}
        }
        a.json("-device", &device);
    }
    Ok(())
}

fn nics(a: &mut Arguments, spec: &VmSpec, handed: &mut Handed) -> io::Result<()> {
    for (index, nic) in spec.nics.iter().enumerate() {
        let id = format!("net{index}");
        let netdev = match &nic.backend {
            NicBackend::None => None,
            NicBackend::User => Some(json!({"type": "user", "id": id, "restrict": true})),
            NicBackend::Tap { ifname } => {
                let device = handed.tap(ifname)?;
                Some(json!({"type": "tap", "id": id, "fd": device.to_string()}))
            }
            NicBackend::Bridge { name } => {
                let device = handed.bridge_port(name, &nic.mac)?;
                Some(json!({"type": "tap", "id": id, "fd": device.to_string()}))
            }
        };
        let mut device = json!({"driver": "virtio-net-pci", "mac": nic.mac});
        if let Some(netdev) = netdev {
            a.json("-netdev", &netdev);
            device["netdev"] = id.into();
        }
        a.json("-device", &device);
    }
    Ok(())
}
