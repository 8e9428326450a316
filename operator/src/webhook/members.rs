//! Which namespaces' pods may sit at a fire.

use std::collections::BTreeMap;

use campfire_api::{Campfire, NamespacesFrom};
use kube::core::{Selector, SelectorExt};

/// Whether pods of a namespace with these labels may be members of `campfire`. A selector that can't be read admits nobody.
pub fn admits(campfire: &Campfire, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    let members = &campfire.spec.members.namespaces;
    match members.from {
        NamespacesFrom::Same => campfire.metadata.namespace.as_deref() == Some(namespace),
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            members.selector.clone().and_then(|selector| Selector::try_from(selector).ok()).is_some_and(|selector| selector.matches(labels))
        }
    }
}
