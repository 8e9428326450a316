//! What a node's probes run: asks the agent as the kubelet does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::csi::{Nothing, ProbeResponse};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the agent at this socket; with `ready`, whether it can publish volumes.
///
/// # Errors
/// It does not answer, or is not ready.
pub async fn run(socket: &Path, ready: bool) -> Result<()> {
    let asked = async {
        let mut client = Client::connect(socket).await?;
        let response: ProbeResponse = client.call("/csi.v1.Identity/Probe", Nothing {}).await?;
        anyhow::Ok(response)
    };
    let Ok(response) = tokio::time::timeout(PATIENCE, asked).await else { bail!("no answer within {} s", PATIENCE.as_secs()) };
    let is_ready = response.with_context(|| format!("the agent at {}", socket.display()))?.ready.is_some_and(|flag| flag.value);
    ensure!(is_ready || !ready, "the kubelet has not registered the driver yet");
    Ok(())
}

/// A client of a socket, as the kubelet is one.
#[derive(Debug)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let socket: PathBuf = socket.to_owned();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The connector knows where.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
        Ok(Self(Grpc::new(channel)))
    }

    /// Calls a method by its path.
    ///
    /// # Errors
    /// What the method says, or that nobody answers.
    pub async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = self.0.unary(Request::new(request), PathAndQuery::from_static(method), ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }
}
