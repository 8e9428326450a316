//! A pod whose interface its node's agent makes ([`campfire_api::node`]): no container of it has a right. The operator says what the interface is made
//! of, and signs it; whoever shows that to the agent is sent the device. Both are waited for as long as it takes.
//!
//! What the operator granted is kept in the pod's memory, so that a sidecar that restarts needs the agent alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use campfire_api::agent::{GrantRequest, Granted, MAX_ANSWER, Settings};
use campfire_api::names::NODE_SOCKET;
use campfire_api::node::{Answer, MAX_MESSAGE, Reason, Refusal, Request};
use campfire_protocol::identity::Identity;
use campfire_sys::local;
use campfire_sys::tun::Tun;
use tracing::{info, warn};

use super::WAITING_INTERFACE;
use super::agent::{Agent, Backoff};
use super::init::outside;
use super::made::Made;
use crate::data;

/// For the agent's answer: it makes an interface in milliseconds, and lets nobody wait for longer than this.
const PATIENCE: Duration = Duration::from_secs(6);
/// Longest pause between two tries, of the operator and of an agent that refuses.
const PAUSE: Duration = Duration::from_secs(15);
/// The same of an agent that is not there: to find that out costs the pod alone, and whoever restarted beside it is to be back soon after it.
const PAUSE_BESIDE: Duration = Duration::from_secs(2);

/// Why there is no device yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    /// The agent cannot be asked, or says nothing that can be read.
    #[error("the node's agent does not answer ({0}): is the DaemonSet of chart campfire-node running on this node?")]
    Unreached(#[from] io::Error),
    /// It refuses.
    #[error("the node's agent refuses: {0}")]
    Refused(#[from] Refusal),
}

/// What the operator granted last.
struct Kept(PathBuf);

impl NotYet {
    /// It may be otherwise in a moment.
    fn is_brief(&self) -> bool {
        match self {
            Self::Unreached(_) => true,
            Self::Refused(refusal) => matches!(refusal.reason, Reason::TooMany | Reason::Busy),
        }
    }
}

impl Kept {
    fn load(&self) -> Option<Granted> {
        let text = fs::read(&self.0).ok().filter(|text| text.len() <= MAX_ANSWER)?;
        serde_json::from_slice(&text).ok()
    }

    fn store(&self, granted: &Granted) {
        let written = serde_json::to_vec(granted).map_err(io::Error::other).and_then(|text| fs::write(&self.0, text));
        if let Err(error) = written {
            warn!("{}: {error}: a restart of this container will need the operator", self.0.display());
        }
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The device of this pod, and what its interface is made of.
pub async fn device(agent: &Agent, dir: &Path, state: &Path, settings: &Settings, identity: &Identity) -> (Tun, Made) {
    let waiting = state.join(WAITING_INTERFACE);
    let kept = Kept(state.join("grant.json"));
    let (mut pause, mut beside) = (Backoff::new(PAUSE), Backoff::new(PAUSE_BESIDE));
    let mut said = String::new();
    loop {
        let (why, later, pause) = match kept.load() {
            None => match agent.grant(&request(identity, settings)).await {
                Ok(granted) => {
                    kept.store(&granted);
                    pause.reset();
                    continue;
                }
                Err(failure) => (format!("no grant from the operator yet: {failure}"), failure.later(), &mut pause),
            },
            Some(granted) => match ask(dir.join(NODE_SOCKET), &granted).await {
                Ok(tun) => {
                    let Granted { network, mtu, ipv4_pool, accept_routes, .. } = granted;
                    let made = Made { network, mtu, ipv4_pool, accept_routes };
                    if let Err(error) = made.store(state) {
                        warn!("{}: what the interface is made of cannot be written down: {error}", state.display());
                    }
                    let _ = fs::remove_file(&waiting);
                    info!("the node's agent made the interface");
                    return (tun, made);
                }
                Err(why) => {
                    // Another operator's, or an older one's: ask for one of now.
                    if let NotYet::Refused(refusal) = &why
                        && matches!(refusal.reason, Reason::BadSignature | Reason::WrongPod | Reason::BadRequest)
                    {
                        kept.forget();
                    }
                    (why.to_string(), None, if why.is_brief() { &mut beside } else { &mut pause })
                }
            },
        };
        if why != said {
            warn!("{why}; asking again");
            // For whoever looks into the pod, by `campfire status` or at its startup probe.
            let _ = fs::write(&waiting, &why);
            said = why;
        }
        pause.wait(later).await;
    }
}

/// Signed as the peer that this is.
fn request(identity: &Identity, settings: &Settings) -> GrantRequest {
    let mut request = GrantRequest { identity: identity.public().to_string(), signature: String::new() };
    let statement = request.statement(&settings.namespace, &settings.name, &settings.uid);
    request.signature = STANDARD.encode(identity.sign(&statement));
    request
}

/// Shows the agent a grant.
async fn ask(socket: PathBuf, granted: &Granted) -> Result<Tun, NotYet> {
    let grant = STANDARD.decode(&granted.grant).map_err(io::Error::other)?;
    let request = Request { device: true, grant, outside: outside() }.encode().map_err(io::Error::other)?;
    // Waits in a thread of its own, which the agent ends by closing; should it not, the answer is nobody's any more.
    let asked = tokio::task::spawn_blocking(move || exchange(&socket, &request));
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(done) => done.map_err(io::Error::other)?,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

fn exchange(socket: &Path, request: &[u8]) -> Result<Tun, NotYet> {
    let connection = local::connect(socket)?;
    local::send(&connection, request, None)?;
    let mut packet = vec![0; MAX_MESSAGE];
    let (length, descriptor) = local::receive_with_descriptor(&connection, &mut packet)?;
    match Answer::decode(packet.get(..length).unwrap_or_default()).map_err(io::Error::other)? {
        Answer::Refused(refusal) => Err(refusal.into()),
        Answer::Made => {
            let descriptor = descriptor.ok_or_else(|| io::Error::other("it says that all is made, and sends no device"))?;
            Ok(data::adopt_tun(descriptor)?)
        }
    }
}
