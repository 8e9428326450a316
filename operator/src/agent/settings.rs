//! What a pod is told: the one place where keys, addresses and servers become the texts of the agent API.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use campfire_api::agent::{Key, KeyMode, ServerEntry, Settings};
use campfire_protocol::key;
use campfire_protocol::server::{PORT, Scope, Server, ServerAddress, TLS_PORT, Transport};
use sha2::{Digest, Sha256};

use crate::state::{HeldKey, Membership, PodId};

/// Most texts of servers.
const MAX_TEXTS: usize = 128;

/// Settings of a pod: what all members of its Campfire are told, and who it is. `direct`: whether direct paths may be used; `routes`: whether routes
/// of others count, which those of another namespace's Campfire only do where that is trusted.
pub fn settings(membership: &Membership, pod: &PodId, direct: bool, routes: bool, agent_ca: &str) -> Settings {
    let mut settings = Settings {
        version: String::new(),
        keys: membership.keys.iter().map(key).collect(),
        network: membership.id.to_string(),
        servers: servers(&membership.told(), &membership.heard),
        name: pod.key.name.clone(),
        namespace: pod.key.namespace.clone(),
        uid: pod.uid.clone(),
        cluster: membership.cluster.clone(),
        ipv4_pool: membership.network.ipv4_pool.as_ref().map(ToString::to_string),
        accept_routes: membership.network.accept_routes.iter().filter(|_| routes).map(ToString::to_string).collect(),
        mtu: membership.network.mtu,
        direct,
        agent_ca: agent_ca.to_owned(),
    };
    settings.version = version(&settings);
    settings
}

fn key(held: &HeldKey) -> Key {
    let mode = match held.mode {
        key::KeyMode::Accept => KeyMode::Accept,
        key::KeyMode::Announce => KeyMode::Announce,
    };
    Key { psk: held.psk.to_text(), mode }
}

/// A hash of all the rest: 32 hex digits, the same whoever leads.
fn version(settings: &Settings) -> String {
    let mut hash = Sha256::new();
    // Written into the hash, so that no copy of the keys is left in memory.
    let _ = serde_json::to_writer(&mut hash, settings);
    let digest = hash.finalize();
    hex::encode(digest.get(..16).unwrap_or_default())
}

/// Servers as texts of docs/protocol.md ("Servers"), those first that are reached from inside the cluster alone.
fn servers(given: &[Server], heard: &[Server]) -> Vec<ServerEntry> {
    let of = |servers: &[Server], scope: Scope, heard| -> Vec<ServerEntry> {
        let entry = |text| ServerEntry { text, in_cluster: scope == Scope::Cluster, heard };
        servers.iter().flat_map(|server| texts(server, scope)).map(entry).collect()
    };
    // What was published holds for outside alone.
    let all = [of(given, Scope::Cluster, false), of(given, Scope::External, false), of(heard, Scope::External, true)];
    all.into_iter().flatten().take(MAX_TEXTS).collect()
}

/// The texts of a server's addresses of one scope: as few as say them in their order.
fn texts(server: &Server, scope: Scope) -> Vec<String> {
    let pin = server.certificate_pin.map(|pin| format!("cert={}", URL_SAFE_NO_PAD.encode(pin)));
    let addresses: Vec<&ServerAddress> = server.addresses.iter().filter(|address| address.scope == scope).collect();
    let mut left = addresses.as_slice();
    let mut texts = Vec::new();
    while let Some(first) = left.first() {
        let (form, transport, said) = form(left);
        let host = if first.host.contains(':') { format!("[{}]", first.host) } else { first.host.clone() };
        let query: Vec<&str> = transport.into_iter().chain(pin.as_deref()).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        texts.push(format!("{}={form}{host}:{}{query}", server.id, first.port));
        left = left.get(said..).unwrap_or_default();
    }
    texts
}

/// How the first of these addresses are written together: scheme, transport, and how many they are.
fn form(addresses: &[&ServerAddress]) -> (&'static str, Option<&'static str>, usize) {
    let is = |index: usize, transport: Transport, port: u16| {
        let same = |address: &&ServerAddress| address.host == addresses[0].host && (address.transport, address.port) == (transport, port);
        addresses.get(index).is_some_and(same)
    };
    let port = addresses[0].port;
    match addresses[0].transport {
        Transport::Udp if port == PORT && is(1, Transport::Tcp, PORT) && is(2, Transport::Tls, TLS_PORT) => ("", None, 3),
        Transport::Udp if is(1, Transport::Tcp, port) => ("turn:", None, 2),
        Transport::Udp => ("turn:", Some("transport=udp"), 1),
        Transport::Tcp => ("turn:", Some("transport=tcp"), 1),
        Transport::Tls => ("turns:", None, 1),
    }
}

#[cfg(test)]
mod tests {
    use campfire_protocol::server::merge;

    use super::*;

    fn parsed(texts: &[&str]) -> Vec<Server> {
        merge(texts.iter().map(|text| text.parse().unwrap()))
    }

    /// As a sidecar reads it.
    fn read(entries: &[ServerEntry]) -> Vec<Server> {
        merge(entries.iter().map(|entry| {
            let mut server: Server = entry.text.parse().unwrap();
            if entry.in_cluster {
                server.addresses.iter_mut().for_each(|address| address.scope = Scope::Cluster);
            }
            server
        }))
    }

    #[test]
    fn a_server_written_as_texts_is_read_as_the_same_server() {
        let pin = URL_SAFE_NO_PAD.encode([9; 32]);
        let texts = [
            "one-0=turn:192.0.2.1:3478?transport=udp".to_owned(),
            "one-0=turn:[2001:db8::1]:3479?transport=tcp".to_owned(),
            format!("one-0=turns:turn.example.com:5349?cert={pin}"),
        ];
        let [server] = parsed(&texts.each_ref().map(String::as_str)).try_into().unwrap();
        let written = servers(std::slice::from_ref(&server), &[]);
        assert_eq!(read(&written), [server]);
        assert_eq!(written[2].text, texts[2]);
        assert!(written.iter().all(|entry| entry.text.ends_with(&pin)), "it is the server's, whichever address shows it");
    }

    #[test]
    fn red_20_what_other_clusters_published_is_told_as_heard() {
        let (given, heard) = (parsed(&["ours=192.0.2.1"]), parsed(&["theirs=turn.example"]));
        let written = servers(&given, &heard);
        let told: Vec<(bool, bool)> = written.iter().map(|entry| (entry.text.starts_with("theirs"), entry.heard)).collect();
        assert_eq!(told, [(false, false), (true, true)]);
    }

    #[test]
    fn what_can_be_said_in_one_text_is() {
        for text in ["a=turn.example.com:3478", "a=turn:192.0.2.1:99", "a=turns:[2001:db8::1]:5349", "a=turn:192.0.2.1:3478?transport=tcp"]
        {
            let written = servers(&parsed(&[text]), &[]);
            assert_eq!(written.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>(), [text]);
        }
        let odd = parsed(&["a=turn:h:1?transport=tcp", "a=turn:h:1?transport=udp", "a=turn:i:1", "a=turn:h:3478", "a=turns:i:5349"]);
        let written = servers(&odd, &[]);
        assert_eq!((read(&written), written.len()), (odd, 5), "the order in which they are tried stays");
    }

    #[test]
    fn addresses_inside_the_cluster_come_first_and_keep_their_scope() {
        let mut servers_of = parsed(&["a=turn:192.0.2.1:3478", "b=turn:192.0.2.2:3478"]);
        let mut inside = servers_of[1].addresses.clone();
        for address in &mut inside {
            address.host = "10.0.0.2".into();
            address.scope = Scope::Cluster;
        }
        servers_of[1].addresses.extend(inside);
        let written = servers(&servers_of, &[]);
        let shown: Vec<(&str, bool)> = written.iter().map(|entry| (entry.text.as_str(), entry.in_cluster)).collect();
        assert_eq!(shown, [("b=turn:10.0.0.2:3478", true), ("a=turn:192.0.2.1:3478", false), ("b=turn:192.0.2.2:3478", false)]);
    }
}
