//! Who may sit at which fire: which Campfires are served, whom they admit, and what pods name. Pure. The webhook, the agent API, the MeshPeers
//! and the search for pods that were missed decide by this and by nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use campfire_api::names::{CAMPFIRE_ANNOTATION, CONFIG_PREFIX};
use campfire_api::{Campfire, NamespacesFrom};
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::core::{Selector, SelectorExt};

use crate::state::ObjectKey;

/// Longest name of a namespace, and of a Campfire as far as annotations go, bytes.
pub const MAX_NAME: usize = 63;

/// Namespaces whose Campfires are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served(Vec<String>);

impl Served {
    /// Those of these namespaces; of all, if there are none.
    pub fn new<N: Into<String>>(namespaces: impl IntoIterator<Item = N>) -> Self {
        Self(namespaces.into_iter().map(Into::into).collect())
    }

    /// Whether Campfires of this namespace are.
    pub fn holds(&self, namespace: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|served| served == namespace)
    }

    /// Which; `None`: all.
    pub fn namespaces(&self) -> Option<&[String]> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Namespaces whose Campfires are trusted with the pods of other namespaces: by what they say of sidecars (an image that runs as root, a policy
/// that keeps apps from starting) and of routes. Of others the place at the fire alone reaches beyond their namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted(Vec<String>);

impl Trusted {
    /// Those; none, if there are none.
    pub fn new<N: Into<String>>(namespaces: impl IntoIterator<Item = N>) -> Self {
        Self(namespaces.into_iter().map(Into::into).collect())
    }

    /// Whether what Campfires of namespace `campfire` say of sidecars and routes holds for pods of namespace `pod`.
    pub fn rules(&self, campfire: &str, pod: &str) -> bool {
        campfire == pod || self.beyond(campfire)
    }

    /// Whether it holds beyond their own namespace.
    pub fn beyond(&self, campfire: &str) -> bool {
        self.0.iter().any(|trusted| trusted == campfire)
    }
}

/// A namespace, as far as membership asks for it.
#[derive(Clone, Debug, Default)]
pub struct NamespaceMeta {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl NamespaceMeta {
    /// Of its metadata; of one that nobody has seen these are empty.
    pub fn new(name: impl Into<String>, metadata: ObjectMeta) -> Self {
        Self { name: name.into(), labels: metadata.labels.unwrap_or_default(), annotations: metadata.annotations.unwrap_or_default() }
    }
}

/// Why pods of a namespace may not sit at a Campfire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unadmitted {
    /// There is none of the name, or it is being deleted.
    NotFound,
    /// The operator serves no Campfires of its namespace.
    NotServed,
    /// It admits other namespaces.
    NotAdmitted,
}

/// Whether pods of a namespace may sit at a Campfire; `found` is what there is by its key.
///
/// # Errors
/// Why not.
pub fn admit<C: AsRef<Campfire>>(
    campfire: &ObjectKey,
    found: Option<C>,
    served: &Served,
    namespace: &NamespaceMeta,
) -> Result<C, Unadmitted> {
    if !served.holds(&campfire.namespace) {
        return Err(Unadmitted::NotServed);
    }
    let there = found.filter(|found| found.as_ref().metadata.deletion_timestamp.is_none()).ok_or(Unadmitted::NotFound)?;
    if admits(there.as_ref(), namespace) { Ok(there) } else { Err(Unadmitted::NotAdmitted) }
}

/// A selector that can't be read admits nobody.
fn admits(campfire: &Campfire, namespace: &NamespaceMeta) -> bool {
    let members = &campfire.spec.members.namespaces;
    match members.from {
        NamespacesFrom::Same => campfire.metadata.namespace.as_ref() == Some(&namespace.name),
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            let selector = members.selector.clone().and_then(|selector| Selector::try_from(selector).ok());
            selector.is_some_and(|selector| selector.matches(&namespace.labels))
        }
    }
}

/// The Campfires that are served: no other has places.
#[derive(Clone, Debug)]
pub struct Places(Vec<Arc<Campfire>>, Served);

/// Why a new pod has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// What it names is no name.
    Unreadable,
    /// It may not sit where it says.
    At(ObjectKey, Unadmitted),
    /// It names none, and none admits its namespace.
    Nowhere,
    /// It names none, and several of its own namespace do.
    Anywhere(ObjectKey, ObjectKey),
}

impl Places {
    /// Those of all there are.
    pub fn new(mut campfires: Vec<Arc<Campfire>>, served: &Served) -> Self {
        let there = |found: &Campfire| {
            found.metadata.deletion_timestamp.is_none() && served.holds(found.metadata.namespace.as_deref().unwrap_or_default())
        };
        campfires.retain(|found| there(found));
        Self(campfires, served.clone())
    }

    /// All of them.
    pub fn campfires(&self) -> &[Arc<Campfire>] {
        &self.0
    }

    /// Where a pod of this namespace sits: at the Campfire that is named; else at its own namespace's, if that admits it; else at the oldest of other
    /// namespaces that does, so that nobody elsewhere takes members away by making another one.
    ///
    /// # Errors
    /// Why nowhere.
    pub fn choose(&self, named: Option<&str>, namespace: &NamespaceMeta) -> Result<&Campfire, NoPlace> {
        if let Some(text) = named {
            let key = Named::read(text, &namespace.name).filter(|named| named.plain).ok_or(NoPlace::Unreadable)?.campfire;
            let found = self.0.iter().find(|campfire| ObjectKey::of(&***campfire) == key);
            return match admit(&key, found, &self.1, namespace) {
                Ok(found) => Ok(found),
                Err(why) => Err(NoPlace::At(key, why)),
            };
        }
        let mut own = self.admitting(namespace).filter(|campfire| of(campfire, namespace));
        match (own.next(), own.next()) {
            (Some(only), None) => Ok(only),
            (Some(one), Some(other)) => Err(NoPlace::Anywhere(ObjectKey::of(one), ObjectKey::of(other))),
            (None, _) => self.admitting(namespace).min_by_key(|campfire| age(campfire)).ok_or(NoPlace::Nowhere),
        }
    }

    /// The next oldest Campfire where a pod that names none could sit, if the one that was chosen is no more its namespace's own than that.
    pub fn passed_over(&self, chosen: &Campfire, namespace: &NamespaceMeta) -> Option<ObjectKey> {
        let other = self.admitting(namespace).filter(|campfire| !std::ptr::eq(*campfire, chosen)).min_by_key(|campfire| age(campfire))?;
        (!of(chosen, namespace)).then(|| ObjectKey::of(other))
    }

    fn admitting(&self, namespace: &NamespaceMeta) -> impl Iterator<Item = &Campfire> {
        self.0.iter().map(|campfire| &**campfire).filter(|campfire| admits(campfire, namespace))
    }
}

fn of(campfire: &Campfire, namespace: &NamespaceMeta) -> bool {
    campfire.metadata.namespace.as_ref() == Some(&namespace.name)
}

/// The oldest has the least; of two that were made in the same second, the one whose name comes first.
fn age(campfire: &Campfire) -> (Option<Timestamp>, ObjectKey) {
    (campfire.metadata.creation_timestamp.as_ref().map(|made| made.0), ObjectKey::of(campfire))
}

/// Whether this can be a namespace's name (an RFC 1123 label), and a Campfire's.
pub fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(inside) && !name.starts_with('-') && !name.ends_with('-')
}

/// A Campfire that a text names: `[namespace/]name`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    campfire: ObjectKey,
    plain: bool,
}

impl Named {
    /// In a pod's `namespace`, unless the text says another. `None`: not even that.
    fn read(text: &str, namespace: &str) -> Option<Self> {
        let (namespace, name) = Self::parts(text, namespace)?;
        Some(Self { plain: is_label(namespace) && is_label(name), campfire: ObjectKey::new(namespace, name) })
    }

    /// Namespace and name.
    fn parts<'t>(text: &'t str, namespace: &'t str) -> Option<(&'t str, &'t str)> {
        let text = text.trim();
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        let fits = |part: &str| !part.is_empty() && part.len() <= MAX_NAME;
        (fits(namespace) && fits(name)).then_some((namespace, name))
    }
}

/// What a pod with a sidecar says of its place, by its annotations: the webhook stamps them, and so may whoever writes pods. Whether it may sit
/// there is another question ([`admit`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// At which fire it sits.
    pub campfire: ObjectKey,
    /// Whether an object may have this name; else there is no such Campfire.
    pub plain: bool,
    /// Whether its packets may go other ways than through the servers.
    pub direct: bool,
}

impl Claim {
    /// Of a pod's metadata. `None`: it names no Campfire.
    pub fn of(pod: &ObjectMeta) -> Option<Self> {
        let annotations = pod.annotations.as_ref()?;
        let Named { campfire, plain } = Named::read(annotations.get(CAMPFIRE_ANNOTATION)?, pod.namespace.as_deref().unwrap_or_default())?;
        let direct = annotations.iter().find(|(name, _)| name.strip_prefix(CONFIG_PREFIX) == Some("direct"));
        let direct = direct.is_none_or(|(_, value)| value.trim() != "Forbid");
        Some(Self { campfire, plain, direct })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn campfire(namespace: &str, name: &str, members: &Value) -> Campfire {
        serde_json::from_value(json!({
            "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "namespace": namespace, "name": name },
            "spec": { "members": { "namespaces": members } },
        }))
        .unwrap()
    }

    fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceMeta {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NamespaceMeta { name: name.into(), labels, annotations: BTreeMap::new() }
    }

    #[test]
    fn namespaces_are_admitted_by_name_selector_or_all() {
        let admitted =
            |members: Value, name: &str, labels: &[(&str, &str)]| admits(&campfire("shop", "home", &members), &namespace(name, labels));
        let team = [("team", "a")];
        assert!(admitted(json!({}), "shop", &[]));
        assert!(!admitted(json!({}), "other", &team));
        assert!(admitted(json!({ "from": "All" }), "other", &[]));
        let selector = || json!({ "from": "Selector", "selector": { "matchLabels": { "team": "a" } } });
        assert!(admitted(selector(), "other", &team));
        assert!(!admitted(selector(), "shop", &[]), "not even its own, unless selected");
        let broken = json!({ "from": "Selector", "selector": { "matchExpressions": [{ "key": "team", "operator": "Near" }] } });
        assert!(!admitted(broken, "other", &team));
        assert!(!admitted(json!({ "from": "Selector" }), "shop", &team));
    }

    #[test]
    fn names_of_campfires_are_read_within_their_bounds() {
        let parse = |text: &str| Named::read(text, "shop").filter(|named| named.plain).map(|named| named.campfire.to_string());
        assert_eq!(parse("home").as_deref(), Some("shop/home"));
        assert_eq!(parse(" infra/home ").as_deref(), Some("infra/home"));
        for wrong in ["", "/", "a/", "/a", "a/b/c", "A", "a b", "ä", &"a".repeat(64)] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn one_rule_says_whether_a_pod_may_sit_somewhere() {
        let (infra, shop) = (Served::new(["infra"]), namespace("shop", &[]));
        let mut open = campfire("infra", "open", &json!({ "from": "All" }));
        let key = ObjectKey::new("infra", "open");
        let ask = |campfire: &Campfire, served: &Served| admit(&key, Some(Arc::new(campfire.clone())), served, &shop).map(drop);
        assert_eq!(ask(&open, &infra), Ok(()));
        assert_eq!(ask(&open, &Served::default()), Ok(()), "all are served");
        assert_eq!(ask(&open, &Served::new(["games"])), Err(Unadmitted::NotServed));
        assert_eq!(ask(&campfire("infra", "open", &json!({})), &infra), Err(Unadmitted::NotAdmitted));
        assert_eq!(admit(&key, None::<Arc<Campfire>>, &infra, &shop).map(drop), Err(Unadmitted::NotFound));
        open.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-27T00:00:00Z")).unwrap();
        assert_eq!(ask(&open, &infra), Err(Unadmitted::NotFound), "it is on its way out");
    }

    #[test]
    fn who_names_no_campfire_sits_at_its_own_namespaces_or_at_the_oldest_that_is_served_and_admits_it() {
        let all = json!({ "from": "All" });
        let campfires = || [campfire("infra", "a", &all), campfire("games", "b", &all), campfire("shop", "c", &json!({}))].map(Arc::new);
        let chosen = |served: &Served, named: Option<&str>| {
            let places = Places::new(campfires().into(), served);
            places.choose(named, &namespace("shop", &[])).map(|campfire| ObjectKey::of(campfire).to_string())
        };
        let key = |text: &str| Named::read(text, "").unwrap().campfire;
        let (infra, two) = (Served::new(["infra"]), Served::new(["infra", "shop"]));
        assert_eq!(chosen(&infra, None).as_deref(), Ok("infra/a"));
        assert_eq!(chosen(&two, None).as_deref(), Ok("shop/c"), "its own");
        assert_eq!(chosen(&Served::new(["games", "infra"]), None).as_deref(), Ok("games/b"), "none has a time here: by name");
        assert_eq!(chosen(&two, Some("c")).as_deref(), Ok("shop/c"));
        assert_eq!(chosen(&Served::new(["nowhere"]), None), Err(NoPlace::Nowhere));
        assert_eq!(chosen(&infra, Some("games/b")), Err(NoPlace::At(key("games/b"), Unadmitted::NotServed)));
        assert_eq!(chosen(&infra, Some("infra/gone")), Err(NoPlace::At(key("infra/gone"), Unadmitted::NotFound)));
        assert_eq!(chosen(&infra, Some("not a label!/x")), Err(NoPlace::Unreadable));
        let own = Places::new(["c", "d"].map(|name| Arc::new(campfire("shop", name, &json!({})))).into(), &two);
        assert_eq!(own.choose(None, &namespace("shop", &[])).map(ObjectKey::of), Err(NoPlace::Anywhere(key("shop/c"), key("shop/d"))));
    }

    #[test]
    fn what_a_pod_claims_is_read_from_its_annotations() {
        let claim =
            |annotations: Value| Claim::of(&serde_json::from_value(json!({ "namespace": "shop", "annotations": annotations })).unwrap());
        assert_eq!(claim(json!({})), None);
        let direct =
            |value: &str| claim(json!({ CAMPFIRE_ANNOTATION: "infra/home", format!("{CONFIG_PREFIX}direct"): value })).unwrap().direct;
        assert!(direct("Allow") && direct("nonsense") && !direct(" Forbid "));
        let claimed = claim(json!({ CAMPFIRE_ANNOTATION: "home" })).unwrap();
        assert_eq!((claimed.campfire.to_string().as_str(), claimed.plain, claimed.direct), ("shop/home", true, true));
        assert!(!claim(json!({ CAMPFIRE_ANNOTATION: "not a label!/neither;" })).unwrap().plain);
        for text in ["/a", "", "a/"] {
            assert_eq!(claim(json!({ CAMPFIRE_ANNOTATION: text })), None, "{text}");
        }
    }
}
