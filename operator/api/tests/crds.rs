//! The CustomResourceDefinitions in the repository are those of the types. `make crds` writes them.

use std::path::Path;

use campfire_api::{Campfire, MeshPeer};
use kube::CustomResourceExt as _;

#[test]
fn definitions_in_the_repository_are_those_of_the_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let write = std::env::var_os("CAMPFIRE_WRITE_CRDS").is_some();
    for (plural, definition) in [("campfires", Campfire::crd()), ("meshpeers", MeshPeer::crd())] {
        let text = serde_yaml::to_string(&definition).unwrap();
        for dir in ["crds", "charts/campfire/files/crds"] {
            let path = root.join(dir).join(format!("campfire.network_{plural}.yaml"));
            if write {
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == text, "{dir}/campfire.network_{plural}.yaml differs from the types: run `make crds`");
        }
    }
}
