//! The sockets of this node's pods, one for each volume: who connects there is that pod. What a pod may ask, and how much of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as BlockingListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use campfire_api::names::NODE_SOCKET;
use campfire_api::node::{Answer, Grant, GrantPublicKey, MAX_MESSAGE, Malformed, Reason, Refusal, Request};
use campfire_sys::local;
use campfire_sys::namespace::Network;
use campfire_sys::tun;
use rustix::fs::{AtFlags, Mode, chmodat, renameat, unlinkat};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::make::{Order, make};
use crate::metrics::Metrics;
use crate::networks::Networks;
use crate::volume::{Target, Volume, in_folder};

/// Connections of one pod at once; as many more wait to be accepted.
const CONNECTIONS: usize = 4;
/// Threads that make interfaces at once. With the one that all else runs on: 8.
const MAKERS: usize = 7;
/// How long a request may take to come, and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Least time between two requests of one pod.
const BETWEEN: Duration = Duration::from_secs(1);
/// Name of a socket that is being made.
const PART: &str = ".part";
/// All that is ever in a volume's directory.
pub const FILES: [&str; 2] = [NODE_SOCKET, PART];

/// What the sockets of all pods share.
#[derive(Debug)]
pub struct Shared {
    /// Whom no pod's request may come from: the node's, and this agent's own.
    pub networks: Networks,
    /// File with the public key of the operator's grants; read again for each request.
    pub key: PathBuf,
    /// The device node of TUN.
    pub node: PathBuf,
    /// What came of their requests.
    pub metrics: Metrics,
    makers: Semaphore,
}

impl Shared {
    /// With these.
    pub fn new(networks: Networks, key: PathBuf, node: PathBuf) -> Self {
        Self { networks, key, node, metrics: Metrics::default(), makers: Semaphore::new(MAKERS) }
    }
}

/// All pods that have a socket.
#[derive(Debug)]
pub struct Pods {
    shared: Arc<Shared>,
    serving: Mutex<BTreeMap<String, Serving>>,
}

#[derive(Debug)]
struct Serving {
    target: Target,
    task: AbortHandle,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pods {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, serving: Mutex::default() }
    }

    fn serving(&self) -> MutexGuard<'_, BTreeMap<String, Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.serving().len()
    }

    /// Listens for a pod, in its volume's directory. Does so already: nothing changes.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listen(&self, volume: &Volume, folder: &OwnedFd) -> io::Result<()> {
        let mut serving = self.serving();
        if serving.contains_key(&volume.target.pod_uid) {
            return Ok(());
        }
        let listener = UnixListener::from_std(bind(folder)?)?;
        let pod = Arc::new(Pod {
            uid: volume.target.pod_uid.clone(),
            shown: volume.pod.clone(),
            last: Mutex::default(),
            shared: self.shared.clone(),
        });
        let task = tokio::spawn(accept(listener, pod)).abort_handle();
        serving.insert(volume.target.pod_uid.clone(), Serving { target: volume.target.clone(), task });
        Ok(())
    }

    /// The volume by which a pod has its socket.
    pub fn target(&self, pod_uid: &str) -> Option<Target> {
        self.serving().get(pod_uid).map(|serving| serving.target.clone())
    }

    /// Ends a pod's socket; the file stays.
    pub fn end(&self, pod_uid: &str) {
        self.serving().remove(pod_uid);
    }
}

/// Makes the socket in a directory, whole or not at all: a pod that connects finds the last agent's or this one's.
fn bind(folder: &OwnedFd) -> io::Result<BlockingListener> {
    match unlinkat(folder, PART, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let backlog = i32::try_from(CONNECTIONS).unwrap_or(4);
    let listener = local::listen(&in_folder(folder.as_fd(), PART), backlog)?;
    // Any user of the pod may connect.
    chmodat(folder, PART, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    renameat(folder, PART, folder, NODE_SOCKET)?;
    Ok(listener.into())
}

/// One pod of this node.
#[derive(Debug)]
struct Pod {
    uid: String,
    /// For people.
    shown: String,
    /// When it asked last.
    last: Mutex<Option<Instant>>,
    shared: Arc<Shared>,
}

/// Takes a pod's connections, [`CONNECTIONS`] at once.
async fn accept(listener: UnixListener, pod: Arc<Pod>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => drop(tokio::spawn(serve(pod.clone(), connection, place))),
            Err(error) => {
                // Out of descriptors: other pods' connections end.
                warn!(pod = pod.shown, %error, "a connection cannot be accepted");
                sleep(BETWEEN).await;
            }
        }
    }
}

/// One request, one answer.
async fn serve(pod: Arc<Pod>, connection: UnixStream, place: OwnedSemaphorePermit) {
    let begun = Instant::now();
    // Who says nothing, or goes, is no news.
    let Ok(Ok(packet)) = timeout(PATIENCE, receive(&connection)).await else { return };
    let done = pod.answer(packet.as_deref(), &connection).await;
    let reason = done.as_ref().err().map(|refusal| refusal.reason);
    pod.shared.metrics.count(reason, begun.elapsed());
    let milliseconds = begun.elapsed().as_millis() as u64;
    match &done {
        Ok(_) => info!(pod = pod.shown, uid = pod.uid, milliseconds, "made"),
        // It may ask as often as it likes.
        Err(refusal) if refusal.reason == Reason::TooMany => debug!(pod = pod.shown, "asked too often"),
        Err(refusal) => warn!(pod = pod.shown, uid = pod.uid, milliseconds, "refused: {refusal}"),
    }
    let (answer, descriptor) = match done {
        Ok(descriptor) => (Answer::Made, descriptor),
        Err(refusal) => (Answer::Refused(refusal), None),
    };
    // There is room for one packet. A pod that is gone needs none.
    if let Err(error) = local::send(&connection, &answer.encode(), descriptor.as_ref().map(AsFd::as_fd)) {
        debug!(pod = pod.shown, %error, "an answer that nobody took");
    }
    drop(connection);
    if reason == Some(Reason::TooMany) {
        // So that who floods is accepted as seldom as it may ask.
        sleep(BETWEEN).await;
    }
    drop(place);
}

/// The one packet that is expected; `None`: it is too large.
async fn receive(connection: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        connection.readable().await?;
        match connection.try_io(Interest::READABLE, || local::receive(connection, &mut buffer)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

impl Pod {
    /// Does what a request says, if it may.
    async fn answer(&self, packet: Option<&[u8]>, connection: &UnixStream) -> Result<Option<OwnedFd>, Refusal> {
        self.count()?;
        let bad = |why: String| Refusal::new(Reason::BadRequest, why);
        let packet = packet.ok_or_else(|| bad(format!("a request has at most {MAX_MESSAGE} bytes")))?;
        let request = Request::decode(packet).map_err(|why| bad(format!("the request: {why}")))?;
        let grant = self.granted(&request.grant)?;
        let failed = |error: &io::Error| Refusal::new(Reason::Failed, format!("whose connection it is: {error}"));
        let network = Network::of_socket(connection).map_err(|error| failed(&error))?;
        self.shared.networks.check(&network)?;
        let owner = local::peer_user(connection).map_err(|error| failed(&error))?;
        let node = device_node(&self.shared.node)?;
        let outside = request.outside.into_iter().collect();
        let order = Order { network, owner, grant, outside, device: request.device, node };
        let place = timeout(PATIENCE, self.shared.makers.acquire()).await;
        let Ok(Ok(_place)) = place else { return Err(Refusal::new(Reason::Busy, "interfaces of other pods are being made")) };
        make(order, PATIENCE).await
    }

    /// Once a second.
    fn count(&self) -> Result<(), Refusal> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < BETWEEN) {
            return Err(Refusal::new(Reason::TooMany, "a pod may ask once a second"));
        }
        *last = Some(Instant::now());
        Ok(())
    }

    /// The grant, if it is this pod's.
    fn granted(&self, signed: &[u8]) -> Result<Grant, Refusal> {
        if signed.is_empty() {
            let words = "without a grant of Campfire's operator there is nothing here: give the pod the label campfire.network/inject, and no such volume";
            return Err(Refusal::new(Reason::NotMember, words));
        }
        let key = key(&self.shared.key)?;
        let grant = Grant::verify(signed, &key).map_err(|why| match why {
            Malformed::Signature => Refusal::new(Reason::BadSignature, format!("the grant: {why}")),
            Malformed::Length | Malformed::Version(_) | Malformed::Count(_) | Malformed::Value(_) => {
                Refusal::new(Reason::BadRequest, format!("the grant: {why}"))
            }
        })?;
        if grant.pod_uid != self.uid {
            return Err(Refusal::new(Reason::WrongPod, "the grant is another pod's"));
        }
        Ok(grant)
    }
}

/// The operator's key, as it is now.
fn key(path: &Path) -> Result<GrantPublicKey, Refusal> {
    let no_key = |why: &dyn std::fmt::Display| {
        let words =
            format!("{}: {why}; the operator writes it: is it running, and may it write into the agent's namespace?", path.display());
        Refusal::new(Reason::NoKey, words)
    };
    let text = fs::read_to_string(path).map_err(|error| no_key(&error))?;
    text.parse().map_err(|error: Malformed| no_key(&error))
}

/// The device node of TUN, which is made where the runtime gives none.
fn device_node(path: &Path) -> Result<PathBuf, Refusal> {
    if !path.exists() {
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| tun::make_node(path));
        made.map_err(|error| Refusal::new(Reason::Failed, format!("{}: {error}: the agent has to run privileged", path.display())))?;
    }
    Ok(path.to_owned())
}
