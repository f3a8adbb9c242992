//! An XFS that shares blocks, in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted one. It is unmounted at the end.
#[derive(Debug)]
pub struct Xfs(PathBuf);

impl Xfs {
    /// Makes and mounts one in `dir`; the error is why that is not possible here.
    pub fn mount(dir: &Path) -> Result<Self, String> {
        let (image, top) = (dir.join("xfs.image"), dir.join("xfs"));
        let file = std::fs::File::create(&image).expect("the image");
        file.set_len(2 << 30).expect("its size");
        std::fs::create_dir(&top).expect("the mount point");
        let make = crate::needs("mkfs.xfs");
        run(Command::new(make)
            .args(["-q", "-m", "reflink=1"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &top]))?;
        Ok(Self(top))
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if let Err(why) = run(Command::new("umount").arg(&self.0)) {
            eprintln!("{}: {why}", self.0.display());
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().expect("it starts");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
