//! What a server is to us, for people and for metrics. Holds no secret.

use std::net::SocketAddr;

use campfire_protocol::limit::Limit;
use campfire_protocol::server::Transport;
use serde::{Deserialize, Serialize};

/// What a server is to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// Not tried now.
    #[default]
    Idle,
    /// Being reached.
    Connecting,
    /// We sit there.
    Camped,
    /// It does not answer.
    Lost,
    /// Speaks TURN, not campfire.
    PlainTurn,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its id.
    pub id: String,
    /// What it is to us.
    pub state: ServerState,
    /// How we reach it.
    pub transport: Option<Transport>,
    /// At which address.
    pub address: Option<SocketAddr>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Members of the room there.
    pub members: usize,
    /// How it sees us.
    pub observed: Option<SocketAddr>,
    /// What is wrong, for people.
    pub problem: Option<String>,
    /// It takes no further member: which limit was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}
