//! Volumes as the kubelet asks for them, read and checked: any pod may name one, and write about it what it likes. And the directory of one, which
//! is reached without following a link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use campfire_api::node::is_pod_uid;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fchmod, mkdirat, open, openat2, unlinkat};
use serde::{Deserialize, Serialize};

use crate::csi::{Access, NodePublishVolumeRequest};

/// Longest path that is looked at, bytes.
const LONGEST: usize = 1_024;
/// What the kubelet says of the pod begins so (`podInfoOnMount`).
const POD_INFO: &str = "csi.storage.k8s.io/";
/// Its uid, of that.
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
/// All of that.
const KNOWN: [&str; 5] = ["pod.name", "pod.namespace", "pod.uid", "serviceAccount.name", "ephemeral"];

/// Why a request cannot be what it should be, in words for the pod's events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

fn invalid<T>(why: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(why.into()))
}

/// Where a volume is wanted: `pods/UID/volumes/kubernetes.io~csi/NAME/mount` in the kubelet's directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The pod's uid.
    pub pod_uid: String,
    /// The volume's name in the pod.
    pub name: String,
}

impl Target {
    /// Reads a path.
    ///
    /// # Errors
    /// It is not exactly what the kubelet makes.
    pub fn read(kubelet: &Path, path: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid(format!("target_path is not {}/pods/UID/volumes/kubernetes.io~csi/NAME/mount", kubelet.display()));
        let rest = Path::new(path).strip_prefix(kubelet).map_err(|_| wrong())?;
        let parts: Option<Vec<&str>> =
            rest.components().map(|part| if let Component::Normal(part) = part { part.to_str() } else { None }).collect();
        let Some(["pods", pod_uid, "volumes", "kubernetes.io~csi", name, "mount"]) = parts.as_deref() else { return Err(wrong()) };
        let target = Self { pod_uid: (*pod_uid).to_owned(), name: (*name).to_owned() };
        // Spelt as it is made: no `//`, no `/./`.
        if path.len() > LONGEST || !target.is_sound() || target.path(kubelet).as_os_str() != OsStr::new(path) {
            return Err(wrong());
        }
        Ok(target)
    }

    /// Whether both parts can be what they are.
    pub fn is_sound(&self) -> bool {
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        is_pod_uid(&self.pod_uid) && (1..=63).contains(&self.name.len()) && self.name.bytes().all(label)
    }

    /// In full.
    pub fn path(&self, kubelet: &Path) -> PathBuf {
        kubelet.join(self.parent()).join("mount")
    }

    fn parent(&self) -> String {
        format!("pods/{}/volumes/kubernetes.io~csi/{}", self.pod_uid, self.name)
    }
}

/// A volume that a pod of this node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// The kubelet's name of it.
    pub id: String,
    /// Where it is wanted.
    pub target: Target,
    /// Namespace and name of the pod, for people.
    pub pod: String,
}

impl Volume {
    /// Reads a request.
    ///
    /// # Errors
    /// It is not for an inline volume, read-only, of the pod in whose directory it is wanted, with nothing said about it.
    pub fn read(kubelet: &Path, request: &NodePublishVolumeRequest) -> Result<Self, Invalid> {
        let target = Target::read(kubelet, &request.target_path)?;
        if request.volume_id.is_empty() || request.volume_id.len() > 128 {
            return invalid("volume_id is missing or too long");
        }
        if !request.readonly {
            return invalid("the volume has to be read-only (csi.readOnly: true): else an app could put a socket of its own there");
        }
        let said = |key: &str| request.volume_context.get(&format!("{POD_INFO}{key}")).map(String::as_str);
        if said("ephemeral") != Some("true") {
            return invalid("the driver has inline volumes alone, and has to be told of pods: is its CSIDriver object the chart's?");
        }
        let known = |key: &String| key.strip_prefix(POD_INFO).is_some_and(|key| KNOWN.contains(&key));
        if let Some(unknown) = request.volume_context.keys().find(|key| !known(key)) {
            return invalid(format!("nothing can be said about the volume, and volumeAttributes has {:?}", shown(unknown)));
        }
        if !request.secrets.is_empty() || !request.publish_context.is_empty() || !request.staging_target_path.is_empty() {
            return invalid("the volume has no Secret, is not attached and is not staged");
        }
        match request.volume_capability.as_ref().and_then(|capability| capability.access.as_ref()) {
            Some(Access::Mount(mount)) if mount.fs_type.is_empty() && mount.mount_flags.is_empty() => {}
            Some(Access::Mount(_) | Access::Block(_)) | None => return invalid("the volume is a directory, without fsType or options"),
        }
        if request.volume_context.get(POD_UID) != Some(&target.pod_uid) {
            return invalid("the pod's uid is not that of target_path");
        }
        let pod = format!("{}/{}", shown(said("pod.namespace").unwrap_or_default()), shown(said("pod.name").unwrap_or_default()));
        Ok(Self { id: request.volume_id.clone(), target, pod })
    }
}

/// What a stranger wrote, for a line of a log.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(253).collect()
}

/// The kubelet's directory, in which nothing is reached by a link.
#[derive(Debug)]
pub struct Kubelet {
    path: PathBuf,
    folder: OwnedFd,
}

/// Only below, and no link on the way.
const STRICT: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Kubelet {
    /// Opens it.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let folder = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
        // A kernel without openat2 (before 5.6) is told now.
        openat2(&folder, ".", FOLDER | OFlags::PATH, Mode::empty(), STRICT)?;
        Ok(Self { path: path.to_owned(), folder })
    }

    /// Its path, as the kubelet has it too.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A volume's directory. `NotFound`: it is not there.
    ///
    /// # Errors
    /// It is not there, or something else is.
    pub fn folder(&self, target: &Target) -> io::Result<OwnedFd> {
        Ok(openat2(&self.folder, format!("{}/mount", target.parent()), FOLDER | OFlags::RDONLY, Mode::empty(), STRICT)?)
    }

    /// Makes a volume's directory, in the one that the kubelet made for it. Made already: that one.
    ///
    /// # Errors
    /// The kubelet has made none, or the kernel refused.
    pub fn make(&self, target: &Target) -> io::Result<OwnedFd> {
        let parent = openat2(&self.folder, target.parent(), FOLDER | OFlags::PATH, Mode::empty(), STRICT)?;
        match mkdirat(&parent, "mount", Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = self.folder(target)?;
        // Whatever the umask: any user of the pod comes through.
        fchmod(&folder, Mode::from_raw_mode(0o755))?;
        Ok(folder)
    }

    /// Removes a volume's directory and in it these files. Gone already is as good.
    ///
    /// # Errors
    /// Something else is there, or the kernel refused.
    pub fn remove(&self, target: &Target, files: &[&str]) -> io::Result<()> {
        let gone_is_good = |done: rustix::io::Result<()>| match done {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        match self.folder(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
            Ok(folder) => {
                for file in files {
                    gone_is_good(unlinkat(&folder, *file, AtFlags::empty()))?;
                }
            }
        }
        match openat2(&self.folder, target.parent(), FOLDER | OFlags::PATH, Mode::empty(), STRICT) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(parent) => gone_is_good(unlinkat(&parent, "mount", AtFlags::REMOVEDIR)),
        }
    }
}

/// A short path of a file in an open directory, whatever the directory's own.
pub fn in_folder(folder: BorrowedFd<'_>, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{file}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::csi::{MountVolume, Nothing, VolumeCapability};

    const UID: &str = "0c5d6a0e-43a5-4b0c-9d7c-0a1b2c3d4e5f";

    #[test]
    fn a_volume_is_read_as_the_kubelet_asks_for_it() {
        let volume = Volume::read(Path::new("/var/lib/kubelet"), &request()).unwrap();
        assert_eq!(volume.target, target());
        assert_eq!((volume.id.as_str(), volume.pod.as_str()), ("csi-1", "shop/web-0"));
    }

    #[test]
    fn whatever_else_a_pod_may_write_is_refused_with_the_reason() {
        let context = |key: &str, value: &str| {
            let mut request = request();
            request.volume_context.insert(key.into(), value.into());
            request
        };
        let capability = |access| NodePublishVolumeRequest { volume_capability: Some(VolumeCapability { access }), ..request() };
        let one = || HashMap::from([("a".to_owned(), "b".to_owned())]);
        let mount = |fs_type: &str, flag: &str| {
            let mount_flags = if flag.is_empty() { Vec::new() } else { vec![flag.to_owned()] };
            capability(Some(Access::Mount(MountVolume { fs_type: fs_type.into(), mount_flags })))
        };
        let refused = [
            (NodePublishVolumeRequest { readonly: false, ..request() }, "read-only"),
            (NodePublishVolumeRequest { volume_id: String::new(), ..request() }, "volume_id"),
            (NodePublishVolumeRequest { volume_id: "i".repeat(129), ..request() }, "volume_id"),
            (NodePublishVolumeRequest { secrets: one(), ..request() }, "no Secret"),
            (NodePublishVolumeRequest { publish_context: one(), ..request() }, "not attached"),
            (NodePublishVolumeRequest { staging_target_path: "/x".into(), ..request() }, "not staged"),
            (NodePublishVolumeRequest { volume_capability: None, ..request() }, "a directory"),
            (capability(None), "a directory"),
            (capability(Some(Access::Block(Nothing {}))), "a directory"),
            (mount("ext4", ""), "without fsType"),
            (mount("", "suid"), "without fsType or options"),
            (context("size", "1Gi"), "volumeAttributes has \"size\""),
            (context("csi.storage.k8s.io/serviceAccount.tokens", "{}"), "volumeAttributes has"),
            (context("csi.storage.k8s.io/ephemeral", "false"), "inline volumes alone"),
            (context("csi.storage.k8s.io/pod.uid", "another"), "not that of target_path"),
            (NodePublishVolumeRequest { volume_context: HashMap::new(), ..request() }, "has to be told of pods"),
        ];
        for (request, why) in refused {
            let said = Volume::read(Path::new("/var/lib/kubelet"), &request).unwrap_err().to_string();
            assert!(said.contains(why), "{said:?} for {request:?}");
        }
    }

    #[test]
    fn a_path_is_the_kubelets_to_the_letter() {
        let read = |path: &str| Target::read(Path::new("/var/lib/kubelet"), path);
        let good = target().path(Path::new("/var/lib/kubelet"));
        let good = good.to_str().unwrap();
        assert_eq!(read(good), Ok(target()));
        let part = |from: &str, to: &str| good.replace(from, to);
        let wrong = [
            String::new(),
            "/".into(),
            good[1..].to_owned(),
            format!("{good}/"),
            format!("{good}/x"),
            part("/mount", ""),
            part("/mount", "/../mount"),
            part("/mount", "//mount"),
            part("/mount", "/./mount"),
            part("kubernetes.io~csi", "kubernetes.io~empty-dir"),
            part("/var/lib/kubelet", "/var/lib/kubelet/../kubelet"),
            part("/var/lib/kubelet", "/etc"),
            part(UID, ".."),
            part(UID, "."),
            part(UID, "a.b"),
            part(UID, &"u".repeat(65)),
            part("campfire-node", ".."),
            part("campfire-node", "Campfire"),
            part("campfire-node", &"v".repeat(64)),
            part("campfire-node", "a\0b"),
            part("campfire-node", &"v".repeat(2_000)),
        ];
        for path in wrong {
            assert!(read(&path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_directory_is_made_and_removed_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (kubelet, elsewhere) = (folder.path().join("kubelet"), folder.path().join("elsewhere"));
        let parent = kubelet.join(target().parent());
        for made in [&parent, &elsewhere.join("mount")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(elsewhere.join("mount/kept"), "").unwrap();
        let opened = Kubelet::open(&kubelet).unwrap();
        for _ in 0..2 {
            opened.make(&target()).unwrap();
        }
        fs::write(parent.join("mount/a"), "").unwrap();
        assert!(opened.remove(&target(), &[]).is_err(), "what is not ours stays, and is told");
        for _ in 0..2 {
            opened.remove(&target(), &["a", "b"]).unwrap();
            assert!(!parent.join("mount").exists() && parent.exists());
        }

        // A link in place of the directory, and of one on the way to it.
        symlink(elsewhere.join("mount"), parent.join("mount")).unwrap();
        assert!(opened.make(&target()).is_err() && opened.folder(&target()).is_err());
        assert!(opened.remove(&target(), &["kept"]).is_err());
        fs::remove_file(parent.join("mount")).unwrap();
        fs::remove_dir(&parent).unwrap();
        symlink(&elsewhere, &parent).unwrap();
        assert!(opened.make(&target()).is_err() && opened.folder(&target()).is_err());
        assert!(opened.remove(&target(), &["kept"]).is_err());
        assert!(elsewhere.join("mount/kept").exists());
        // Without the kubelet's own directory there is nothing to make one in, and nothing to remove.
        fs::remove_file(&parent).unwrap();
        assert_eq!(opened.make(&target()).unwrap_err().kind(), io::ErrorKind::NotFound);
        opened.remove(&target(), &["kept"]).unwrap();
    }

    fn target() -> Target {
        Target { pod_uid: UID.into(), name: "campfire-node".into() }
    }

    fn request() -> NodePublishVolumeRequest {
        let said =
            [("pod.name", "web-0"), ("pod.namespace", "shop"), ("pod.uid", UID), ("serviceAccount.name", "default"), ("ephemeral", "true")];
        NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: target().path(Path::new("/var/lib/kubelet")).to_str().unwrap().into(),
            volume_capability: Some(VolumeCapability {
                access: Some(Access::Mount(MountVolume { fs_type: String::new(), mount_flags: Vec::new() })),
            }),
            readonly: true,
            volume_context: said.map(|(key, value)| (format!("{POD_INFO}{key}"), value.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        }
    }
}
