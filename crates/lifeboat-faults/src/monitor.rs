//! Writing to the disks of a running QEMU the way a guest does, through the device, by a monitor of the test's own.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A QMP connection.
pub struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to a monitor socket of QEMU. A request that takes longer than `limit` fails.
    ///
    /// # Errors
    /// When no process listens there or what answers is not QEMU.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut monitor = Self { stream, lines };
        let greeting = monitor.line()?;
        if greeting.get("QMP").is_none() {
            bail!("{} is no QEMU monitor: {greeting}", socket.display());
        }
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Carries out a command; what it returns.
    ///
    /// # Errors
    /// When QEMU refuses, is gone, or does not answer in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream, "{request}")?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }

    /// A write of `qemu-io` on the device of this QOM path; `command` as for `qemu-io -c`. QEMU tells its standard output
    /// how it went, which has to be the file `output`, line by line.
    ///
    /// # Errors
    /// When the write fails, or did not say that it succeeded.
    pub fn write(&mut self, device: &str, command: &str, output: &Path) -> Result<()> {
        let before = std::fs::metadata(output).map_or(0, |m| m.len());
        let line = format!("qemu-io -d {device} \"{command}\"");
        let said = self.execute("human-monitor-command", &json!({"command-line": line}))?;
        let mut file = std::fs::File::open(output).with_context(|| output.display().to_string())?;
        file.seek(SeekFrom::Start(before))?;
        let mut printed = String::new();
        file.read_to_string(&mut printed)?;
        if said.as_str() == Some("") && printed.contains("wrote ") {
            return Ok(());
        }
        bail!("{command}: {said} {printed}")
    }
}
