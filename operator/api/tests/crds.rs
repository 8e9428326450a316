//! The CustomResourceDefinitions in the repository, and docs/api.md, are those of the types. `make crds` writes them.

mod reference;

use std::path::Path;

#[test]
fn definitions_and_their_reference_in_the_repository_are_those_of_the_types() {
    let [campfire, peer] = campfire_api::definitions();
    let mut files = vec![("docs/api.md".to_owned(), reference::document(&campfire, &peer))];
    for (plural, definition) in [("campfires", campfire), ("meshpeers", peer)] {
        let text = serde_yaml::to_string(&definition).unwrap();
        for dir in ["crds", "charts/campfire/files/crds"] {
            files.push((format!("{dir}/campfire.network_{plural}.yaml"), text.clone()));
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let write = std::env::var_os("CAMPFIRE_WRITE_CRDS").is_some();
    for (file, text) in files {
        if write {
            std::fs::write(root.join(&file), &text).unwrap();
        }
        let found = std::fs::read_to_string(root.join(&file)).unwrap_or_default();
        assert!(found == text, "{file} differs from the types: run `make crds`");
    }
}
