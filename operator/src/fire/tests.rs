//! Operators of two clusters at a real server's core on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use campfire_camp::{Tls, Trust};
use campfire_protocol::identity::Identity;
use campfire_protocol::key::{KeyMode, Psk};
use campfire_protocol::server::{Scope, Server, merge};
use campfire_protocol::time::{Time, UnixMillis};
use campfire_turn::auth::Secrets;
use campfire_turn::io::{Input, ListenerId, Output, StreamId, Via};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot};

use super::camper::Camper;
use crate::state::{HeldKey, Membership, Memberships, ObjectKey, Sightings, View};

const PSK: [u8; 32] = [42; 32];

#[tokio::test]
async fn operators_of_two_clusters_learn_of_each_others_servers_and_see_each_other_come_and_go() {
    let server = serve().await;
    let text = format!("east-0=turn:{server}?transport=udp");
    let east = Cluster::join("east", 1, &text, 1, &["east-0=turn:192.0.2.1:3478?transport=udp"]);
    let west = Cluster::join(
        "west",
        2,
        &text,
        5,
        &["west-0=turn:[2001:db8::5]:3478?transport=tcp", "west-1=turn:west.example.com:3478?transport=udp"],
    );

    let seen = east.until("it sees west's servers", |view| view.foreign_servers.len() == 2).await;
    assert_eq!(
        seen.foreign_servers,
        servers(&["west-0=turn:[2001:db8::5]:3478?transport=tcp", "west-1=turn:west.example.com:3478?transport=udp"])
    );
    assert_eq!(seen.camped, 1);
    let sighting = seen.seen.values().next().unwrap();
    assert_eq!((sighting.cluster.as_str(), sighting.origin, seen.seen.len()), ("west", true, 1));
    assert_eq!(sighting.identity, Identity::from_seed(&[2; 32]).public());
    assert!(sighting.addresses[0].to_string().starts_with("fd"), "{:?}", sighting.addresses);
    let seen = west.until("it sees east's server", |view| !view.foreign_servers.is_empty()).await;
    assert_eq!(seen.foreign_servers, servers(&["east-0=turn:192.0.2.1:3478?transport=udp"]));

    // A server is added in the first cluster, and one moves.
    east.publish(2, &["east-0=turn:192.0.2.9:3478?transport=udp", "east-1=turn:192.0.2.2:3478?transport=udp"]);
    let seen = west.until("it sees the new server", |view| view.foreign_servers.len() == 2).await;
    assert_eq!(seen.foreign_servers, servers(&["east-0=turn:192.0.2.9:3478?transport=udp", "east-1=turn:192.0.2.2:3478?transport=udp"]));

    drop(east.stop);
    let seen = west.until("it sees east leave", |view| view.seen.is_empty()).await;
    assert_eq!(seen.foreign_servers.len(), 2, "its servers stay good while its operator is away");
}

#[tokio::test]
async fn the_next_leader_is_the_same_origin() {
    let server = serve().await;
    let text = format!("turn:{server}?transport=udp");
    let east = Cluster::join("east", 1, &text, 1, &["east-0=turn:192.0.2.1:3478?transport=udp"]);
    let west = Cluster::join("west", 2, &text, 1, &[]);
    west.until("it sees east", |view| view.foreign_servers.len() == 1).await;
    // The earlier leader is still there when the next one comes.
    let next = Cluster::join("east", 1, &text, 2, &["east-0=turn:192.0.2.3:3478?transport=udp"]);
    let seen = west
        .until("it sees what the next says", |view| view.foreign_servers == servers(&["east-0=turn:192.0.2.3:3478?transport=udp"]))
        .await;
    assert_eq!(seen.seen.len(), 1);
    drop((east, next));
}

#[tokio::test]
async fn a_server_that_is_reached_by_tcp_alone_is_camped_on() {
    let server = serve().await;
    let text = format!("turn:{server}?transport=tcp");
    let east = Cluster::join("east", 1, &text, 1, &[]);
    let west = Cluster::join("west", 2, &text, 1, &["west-0=turn:192.0.2.1:3478?transport=udp"]);
    let seen = east.until("it sees west", |view| view.foreign_servers.len() == 1).await;
    assert_eq!(seen.camped, 1);
    drop(west.stop);
    east.until("it sees west leave", |view| view.seen.is_empty()).await;
}

#[tokio::test]
async fn a_withdrawn_membership_ends_the_sitting_and_a_new_one_begins_another() {
    let server = serve().await;
    let text = format!("turn:{server}?transport=udp");
    let east = Cluster::join("east", 1, &text, 1, &[]);
    let west = Cluster::join("west", 2, &text, 1, &[]);
    east.until("it sees west", |view| view.seen.len() == 1).await;
    west.memberships.withdraw(&west.campfire);
    east.until("it sees west leave", |view| view.seen.is_empty()).await;
    west.publish(1, &[]);
    east.until("it sees west again", |view| view.seen.len() == 1).await;
}

fn servers(texts: &[&str]) -> Vec<Server> {
    merge(texts.iter().map(|text| text.parse().unwrap()))
}

struct Cluster {
    name: &'static str,
    server: String,
    campfire: ObjectKey,
    memberships: Arc<Memberships>,
    sightings: Arc<Sightings>,
    stop: oneshot::Sender<()>,
}

impl Cluster {
    fn join(name: &'static str, identity: u8, server: &str, version: u64, published: &[&str]) -> Self {
        let (stop, stopped) = oneshot::channel();
        let cluster = Self {
            name,
            server: server.to_owned(),
            campfire: ObjectKey::new("camp", "fire"),
            memberships: Arc::default(),
            sightings: Arc::default(),
            stop,
        };
        cluster.publish(version, published);
        let camper = Camper {
            campfire: cluster.campfire.clone(),
            identity: Identity::from_seed(&[identity; 32]),
            tls: Arc::new(Tls::new(&Trust::Anybody).expect("TLS")),
            memberships: cluster.memberships.clone(),
            sightings: cluster.sightings.clone(),
        };
        tokio::spawn(camper.run(stopped));
        cluster
    }

    fn publish(&self, version: u64, published: &[&str]) {
        let key = HeldKey::new(Psk::from_bytes(PSK), KeyMode::Announce);
        let mut inside = servers(&[&self.server]);
        inside.iter_mut().flat_map(|server| &mut server.addresses).for_each(|address| address.scope = Scope::Cluster);
        let membership = Membership {
            id: key.keys.network,
            own: servers(published),
            given: inside,
            cluster: self.name.into(),
            server_list_version: version,
            ..crate::testing::membership(vec![key])
        };
        self.memberships.publish(&self.campfire, membership);
    }

    async fn until(&self, what: &str, done: impl Fn(&View) -> bool) -> Arc<View> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Followed anew: a view is withdrawn when a sitting ends.
            let view = self.sightings.get(&self.campfire);
            if done(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "{}: not within 30 s: {what}; it sees {view:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs a server's core on a UDP and a TCP socket of one port, for as long as the test's runtime lives.
async fn serve() -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let keys = Psk::from_bytes(PSK).derive();
    let mut secrets = Secrets::new();
    secrets.add_campfire(keys.fingerprint, keys.relay.clone());
    tokio::spawn(async move {
        let epoch = Instant::now();
        let now = || Time::from_micros(epoch.elapsed().as_micros() as u64);
        let wall = || UnixMillis(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
        let mut core = campfire_turn::Server::new(campfire_turn::Config::default(), secrets, [1; 32], now(), wall());
        let (frames, mut inbox) = mpsc::channel::<(StreamId, SocketAddr, Vec<u8>)>(64);
        let mut writers = HashMap::new();
        let mut buffer = [0; 2048];
        loop {
            while let Some(output) = core.poll() {
                match output {
                    Output::Send { via: Via::Udp { remote, .. }, bytes } => drop(udp.send_to(&bytes, remote).await),
                    Output::Send { via: Via::Stream { stream, .. }, bytes } => {
                        if let Some(writer) = writers.get_mut(&stream) {
                            let writer: &mut tokio::net::tcp::OwnedWriteHalf = writer;
                            let _ = writer.write_all(&bytes).await;
                        }
                    }
                    // Nobody here asks for a relay.
                    Output::SendRelay { .. } | Output::OpenRelay { .. } | Output::CloseRelay { .. } | Output::CloseStream { .. } => {}
                }
            }
            let wake = core.next_wake().map_or(Duration::from_secs(1), |at| at.since(now()));
            tokio::select! {
                Ok((size, remote)) = udp.recv_from(&mut buffer) => {
                    let via = Via::Udp { listener: ListenerId(0), remote };
                    core.handle(now(), wall(), Input::Message { via, bytes: &buffer[..size] });
                }
                Ok((stream, remote)) = tcp.accept() => {
                    let id = StreamId(writers.len() as u64);
                    let (mut reader, writer) = stream.into_split();
                    writers.insert(id, writer);
                    let frames = frames.clone();
                    tokio::spawn(async move {
                        let mut header = [0; 20];
                        while reader.read_exact(&mut header).await.is_ok() {
                            let mut message = header.to_vec();
                            message.resize(20 + usize::from(u16::from_be_bytes([header[2], header[3]])), 0);
                            reader.read_exact(&mut message[20..]).await.unwrap();
                            frames.send((id, remote, message)).await.unwrap();
                        }
                    });
                }
                Some((stream, remote, bytes)) = inbox.recv() => {
                    core.handle(now(), wall(), Input::Message { via: Via::Stream { stream, remote }, bytes: &bytes });
                }
                () = tokio::time::sleep(wake) => core.handle(now(), wall(), Input::Wake),
            }
        }
    });
    address
}
