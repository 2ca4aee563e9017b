//! Root file systems and images, made of busybox: nothing is fetched from anywhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lab::tool;
use serde_json::json;

use super::web::PORT;

/// The programs that containers use.
const APPLETS: [&str; 8] = ["sh", "echo", "httpd", "wget", "sleep", "ip", "ping", "cat"];

/// The page that says who asks: a server's environment has it (RFC 3875 section 4.1.8).
const WHO: &str = "#!/bin/sh\necho 'Content-Type: text/plain'\necho\necho \"$REMOTE_ADDR\"\n";

/// The name of the image.
pub(crate) const NAME: &str = "localhost/pod:1";

/// What a container that serves runs.
pub(crate) fn server() -> [String; 6] {
    ["httpd", "-f", "-p", &PORT.to_string(), "-h", "/www"].map(str::to_owned)
}

/// Makes a root file system in a directory.
pub(crate) fn rootfs(dir: &Path) -> Result<()> {
    for part in ["bin", "proc", "sys", "dev", "etc", "tmp", "run", "www/cgi-bin"] {
        fs::create_dir_all(dir.join(part))?;
    }
    let busybox = dir.join("bin/busybox");
    fs::copy(find("busybox")?, &busybox)?;
    executable(&busybox)?;
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet))?;
    }
    let who = dir.join("www/cgi-bin/who");
    fs::write(&who, WHO)?;
    executable(&who)
}

/// Where a program is. A dynamic one would need its libraries in the container: the static one, of
/// Debian's busybox-static, is what is wanted.
fn find(program: &str) -> Result<PathBuf> {
    let command = tool::command(program);
    let path = Path::new(command.get_program());
    let head = fs::read(path).with_context(|| path.display().to_string())?;
    // The name of a loader is in every dynamic executable (ELF, PT_INTERP).
    let dynamic = head.windows(8).take(4096).any(|bytes| bytes == b"/ld-linu");
    ensure!(!dynamic, "{} is not static: the package is busybox-static", path.display());
    Ok(path.to_owned())
}

fn executable(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Packs a root file system as an image of one layer, as `docker save` writes it. A container of it
/// serves.
pub(crate) fn archive(rootfs: &Path, dir: &Path) -> Result<PathBuf> {
    let layer = dir.join("layer.tar");
    let tar = |to: &Path, from: &Path, what: &[&str]| {
        tool::run(tool::command("tar").arg("-cf").arg(to).arg("-C").arg(from).args(what))
    };
    tar(&layer, rootfs, &["."])?;
    let sum = tool::run(tool::command("sha256sum").arg(&layer))?;
    let sum = sum.split_whitespace().next().context("no sum")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": server() },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    let archive = dir.join("image.tar");
    tar(&archive, dir, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}
