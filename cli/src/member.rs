//! Which pod is meant.

use anyhow::{Result, bail};

/// A pod with a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Runs and is ready.
    pub ready: bool,
    /// `namespace/name` of its Campfire.
    pub campfire: String,
    /// The image of its sidecar.
    pub image: String,
}

/// What has been named, of `members`: a pod by its name or by how it begins, before which its namespace may stand. Where several begin so the
/// first that is ready is taken, by name, but not `other`.
pub fn choose<'a>(members: &'a [Member], wanted: &str, other: Option<&Member>) -> Option<&'a Member> {
    let wanted = wanted.strip_prefix("pod/").or_else(|| wanted.strip_prefix("pods/")).unwrap_or(wanted);
    let (namespace, wanted) = wanted.split_once('/').map_or((None, wanted), |(namespace, name)| (Some(namespace), name));
    let mut meant: Vec<&Member> = members.iter().filter(|member| namespace.is_none_or(|namespace| namespace == member.namespace)).collect();
    meant.sort_by_key(|member| (!member.ready, &member.namespace, &member.name));
    let exact = meant.iter().find(|member| member.name == wanted);
    // `hello` is hello-6d9f…, rather than hello2-….
    let of = |member: &&&Member| member.name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
    let begins = |member: &&&Member| !wanted.is_empty() && member.name.starts_with(wanted);
    let another = |member: &&&Member| other.is_none_or(|other| (&other.namespace, &other.name) != (&member.namespace, &member.name));
    let by_name = exact.or_else(|| meant.iter().find(|member| of(member) && another(member)));
    by_name.or_else(|| meant.iter().find(|member| begins(member) && another(member))).copied()
}

/// The same, of a pod that must be there.
pub fn must<'a>(members: &'a [Member], wanted: &str, place: &str) -> Result<&'a Member> {
    if let Some(member) = choose(members, wanted, None) {
        return Ok(member);
    }
    let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    names.truncate(20);
    if names.is_empty() {
        bail!(
            "no pod in {place} has a sidecar: label campfire.network/inject: enabled gives new pods one (docs/kubernetes.md, \"Who gets a sidecar\")"
        );
    }
    bail!("no pod with a sidecar in {place} is called {wanted}; there are: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_name_by_its_deployments_and_by_how_it_begins() {
        let members = members();
        let found = |wanted: &str| choose(&members, wanted, None).map(|member| format!("{}/{}", member.namespace, member.name));
        assert_eq!(found("hello-b").as_deref(), Some("default/hello-b"));
        assert_eq!(found("hello").as_deref(), Some("default/hello-b"), "the first that is ready");
        assert_eq!(found("shop/hello").as_deref(), Some("shop/hello-z"));
        assert_eq!(found("pod/hello-a").as_deref(), Some("default/hello-a"), "as asked, ready or not");
        assert_eq!(found("hello2").as_deref(), Some("default/hello2-x"));
        assert_eq!(found("hell").as_deref(), Some("default/hello-b"));
        assert_eq!(found("elsewhere/hello"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn of_two_pods_that_are_named_alike_there_are_two() {
        let members = members();
        let first = choose(&members, "hello", None).unwrap();
        let second = choose(&members, "hello", Some(first)).unwrap();
        assert_eq!((first.name.as_str(), second.name.as_str()), ("hello-b", "hello-c"));
        assert_eq!(choose(&members, "hello-b", Some(first)), Some(first), "who names one pod twice means it");
    }

    #[test]
    fn who_is_not_there_is_told_who_is() {
        let error = must(&members(), "nobody", "namespace default").unwrap_err().to_string();
        assert!(error.starts_with("no pod with a sidecar in namespace default is called nobody; there are: hello-a, "), "{error}");
        assert!(must(&[], "x", "namespace default").unwrap_err().to_string().contains("campfire.network/inject: enabled"));
    }

    fn members() -> Vec<Member> {
        [
            ("default", "hello-a", false),
            ("default", "hello-b", true),
            ("default", "hello-c", true),
            ("default", "hello2-x", true),
            ("shop", "hello-z", true),
        ]
        .map(|(namespace, name, ready)| Member { namespace: namespace.into(), name: name.into(), ready, ..Member::default() })
        .to_vec()
    }
}
