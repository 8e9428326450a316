//! What comes by the kubelet, much of which a pod wrote: requests about volumes, and the stream of HTTP/2 frames in which they come.
#![no_main]

use std::path::Path;

use campfire_node::authority::Overwriter;
use campfire_node::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, RegistrationStatus};
use campfire_node::volume::{Target, Volume};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

const KUBELET: &str = "/var/lib/kubelet";

fuzz_target!(|bytes: &[u8]| {
    let kubelet = Path::new(KUBELET);
    if let Ok(request) = NodePublishVolumeRequest::decode(bytes)
        && let Ok(volume) = Volume::read(kubelet, &request)
    {
        sound(&volume.target, &request.target_path);
        assert!(request.readonly && request.secrets.is_empty());
    }
    if let Ok(request) = NodeUnpublishVolumeRequest::decode(bytes)
        && let Ok(target) = Target::read(kubelet, &request.target_path)
    {
        sound(&target, &request.target_path);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(target) = Target::read(kubelet, &format!("{KUBELET}/pods/{text}"))
    {
        sound(&target, &format!("{KUBELET}/pods/{text}"));
    }
    let _ = RegistrationStatus::decode(bytes);
    let whole = overwritten(bytes, bytes.len().max(1));
    for piece in [1, 3, 64] {
        assert_eq!(overwritten(bytes, piece), whole, "in pieces of {piece}");
    }
    assert_eq!(whole.get(..24), bytes.get(..24));
});

/// The one path of this target, and nothing on it that leads elsewhere.
fn sound(target: &Target, path: &str) {
    assert_eq!(target.path(Path::new(KUBELET)).as_os_str(), path);
    assert!(target.is_sound() && !path.contains("..") && !path.contains("//"));
}

fn overwritten(bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut overwriter, mut bytes) = (Overwriter::default(), bytes.to_vec());
    bytes.chunks_mut(piece).for_each(|piece| overwriter.pass(piece));
    bytes
}
