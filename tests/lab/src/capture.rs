//! What is on the wire, as tcpdump writes it and tshark reads it: nothing of ours judges our bytes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::tool::{self, Background, eventually};
use crate::world::Space;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
    dir: TempDir,
}

impl Capture {
    /// Starts to write what a filter lets through, both directions; returns once it listens.
    ///
    /// # Errors
    ///
    /// If tcpdump does not start.
    pub fn start(space: &Space, device: &str, filter: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("capture-")?;
        let file = dir.path().join("wire.pcap");
        let mut command = tool::command("tcpdump");
        command.args([
            "--immediate-mode",
            "-U",
            "-n",
            "-B",
            "8192",
            "-Z",
            "root",
            "-i",
            device,
            "-w",
        ]);
        command.arg(&file).arg(filter);
        let tcpdump = space.run(|| Background::start(&mut command, dir.path(), "tcpdump"))??;
        eventually(Duration::from_secs(10), "tcpdump listens", || {
            Ok(tcpdump.said().contains("listening on"))
        })
        .with_context(|| tcpdump.said())?;
        Ok(Self { tcpdump, file, dir })
    }

    /// Ends the capture. What was on the wire before this call is in the file.
    ///
    /// # Errors
    ///
    /// If tcpdump does not end.
    pub fn stop(mut self) -> Result<Captured> {
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait(Duration::from_secs(10))?;
        Ok(Captured { file: self.file, _dir: self.dir })
    }
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    file: PathBuf,
    _dir: TempDir,
}

impl Captured {
    /// tshark's values for fields, a row per captured frame that passes a display filter. Where a
    /// field occurs more than once in a frame (outer and inner), its values are joined by commas.
    ///
    /// # Errors
    ///
    /// If tshark knows no such field or filter.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut command = tool::command("tshark");
        command.arg("-r").arg(&self.file).args(["-d", "udp.port==4789,vxlan"]);
        // Checksums are compared by tshark, not believed.
        command.args(["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
        command.args(["-o", "tcp.check_checksum:TRUE"]);
        command.args(["-Y", filter, "-T", "fields", "-E", "separator=|"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let text = tool::run(&mut command)?;
        Ok(text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
    }
}
