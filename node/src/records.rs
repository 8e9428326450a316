//! Which volumes are published, on disk: an agent that restarts goes on where the last one was. A record is a file named as its pod's uid.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::volume::Volume;

/// Largest file, bytes.
const LONGEST: u64 = 4 * 1_024;

/// All of them.
#[derive(Debug)]
pub struct Records(PathBuf);

impl Records {
    /// In this directory, which is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Takes the directory away again, if there is none: whoever uninstalls the agent finds nothing of it.
    pub fn end(&self) {
        let _ = fs::remove_dir(&self.0);
    }

    /// Reads all. What is no record is passed over, and said.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all(&self) -> io::Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // What was being written when the agent ended: the kubelet was not told that it is done, and asks again.
            if name.ends_with(PART) {
                let _ = fs::remove_file(self.0.join(&name));
                continue;
            }
            match self.read(&name) {
                Ok(volume) if volume.target.is_sound() && volume.target.pod_uid == name => volumes.push(volume),
                Ok(_) => warn!(record = name, "a record that is not of the pod that it is named after: passed over"),
                Err(error) => warn!(record = name, %error, "a record that cannot be read: passed over"),
            }
        }
        Ok(volumes)
    }

    fn read(&self, name: &str) -> io::Result<Volume> {
        let mut bytes = Vec::new();
        File::open(self.0.join(name))?.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Writes one, whole or not at all.
    ///
    /// # Errors
    /// The disk is full, or the kernel refused.
    pub fn store(&self, volume: &Volume) -> io::Result<()> {
        let path = self.0.join(&volume.target.pod_uid);
        let part = self.0.join(format!("{}{PART}", volume.target.pod_uid));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec(volume)?)?;
        fs::rename(part, path)
    }

    /// Removes one. Gone already is as good.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, pod_uid: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(pod_uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// No uid ends so.
const PART: &str = ".part";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Target;

    #[test]
    fn what_was_written_is_read_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("pods")).unwrap();
        let volume =
            |uid: &str| Volume { id: "csi-1".into(), target: Target { pod_uid: uid.into(), name: "v".into() }, pod: "shop/web".into() };
        for uid in ["one", "two"] {
            records.store(&volume(uid)).unwrap();
        }
        let file = |name: &str| folder.path().join("pods").join(name);
        fs::write(file("three.part"), "{").unwrap();
        fs::write(file("four"), "{}").unwrap();
        fs::copy(file("one"), file("five")).unwrap();
        fs::write(file("six"), vec![b' '; 10_000]).unwrap();
        records.remove("two").unwrap();
        records.remove("two").unwrap();
        assert_eq!(records.all().unwrap(), [volume("one")]);
        assert!(!file("three.part").exists());
    }
}
