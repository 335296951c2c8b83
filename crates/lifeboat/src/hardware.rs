//! The hardware this host runs on, as the kernel describes it, for clients of the management API that ask. Nothing is decided by it.

use lifeboat_wbem::cim::Machine;

/// What the kernel says. Anything it does not say is zero or empty.
pub(crate) fn read() -> Machine {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    machine(cpus, &text("/proc/meminfo"), &text("/proc/cpuinfo"))
}

/// The same of the texts of `meminfo` and `cpuinfo` (proc(5)).
fn machine(cpus: u32, meminfo: &str, cpuinfo: &str) -> Machine {
    let kib = field(meminfo, "MemTotal").and_then(|m| m.split(' ').next()?.parse::<u64>().ok());
    Machine {
        cpus,
        memory: kib.unwrap_or(0).saturating_mul(1024),
        processor: field(cpuinfo, "model name").unwrap_or_default().to_owned(),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_say_is_zero_or_empty() {
        let meminfo = "MemTotal:       16301176 kB\nMemFree:         1048576 kB\n";
        let cpuinfo = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: A processor @ 2.5GHz\nprocessor\t: 1\nmodel name\t: B\n";
        let known = machine(2, meminfo, cpuinfo);
        let want = Machine {
            cpus: 2,
            memory: 16_301_176 * 1024,
            processor: "A processor @ 2.5GHz".into(),
        };
        assert_eq!(known, want);
        for (meminfo, cpuinfo) in [
            ("", ""),
            ("MemTotal: many kB", "model name"),
            ("MemTotal", "cpu: 1"),
        ] {
            let unknown = machine(1, meminfo, cpuinfo);
            assert_eq!((unknown.memory, unknown.processor.as_str()), (0, ""), "{meminfo}");
        }
    }
}
