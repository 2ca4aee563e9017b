//! What is on the wire, kept as a pcap file that tshark reads: nothing of ours judges our bytes.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use tempfile::TempDir;

use crate::tool;
use crate::traffic::frames::Frames;
use crate::world::Space;

/// The longest frame that is kept, in bytes: a superframe and its headers.
const SNAP_LEN: u32 = 262_144;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Result<()>>,
    file: PathBuf,
    dir: TempDir,
}

impl Capture {
    /// Starts to keep what passes a device, in both directions.
    ///
    /// # Errors
    ///
    /// If there is no such device, or the user may not.
    pub fn start(space: &Space, device: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("capture-")?;
        let file = dir.path().join("wire.pcap");
        let frames = Frames::open(space, device)?;
        let (stop, out) = (Arc::new(AtomicBool::new(false)), BufWriter::new(File::create(&file)?));
        let flag = Arc::clone(&stop);
        let writer = thread::spawn(move || write(&frames, out, &flag));
        Ok(Self { stop, writer, file, dir })
    }

    /// Ends the capture, once there is a tenth of a second without a frame. What was on the wire
    /// before this call is in the file.
    ///
    /// # Errors
    ///
    /// If the file could not be written.
    pub fn stop(self) -> Result<Captured> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().map_err(|_| anyhow!("the capture panicked"))??;
        Ok(Captured { file: self.file, _dir: self.dir })
    }
}

/// The classic pcap format (draft-ietf-opsawg-pcap), link type Ethernet.
fn write(frames: &Frames, mut out: BufWriter<File>, stop: &AtomicBool) -> Result<()> {
    for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, SNAP_LEN, 1_u32] {
        out.write_all(&word.to_ne_bytes())?;
    }
    loop {
        let Some(frame) = frames.next()? else {
            if stop.load(Ordering::Relaxed) {
                return Ok(out.flush()?);
            }
            continue;
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let length = u32::try_from(frame.len())?;
        for word in [u32::try_from(time.as_secs())?, time.subsec_micros(), length, length] {
            out.write_all(&word.to_ne_bytes())?;
        }
        out.write_all(&frame)?;
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
