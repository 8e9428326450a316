//! The two sockets of the kubelet's: which method is what, with bounds on what may be asked. The same service answers on both.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::future::{Ready, ready};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::authority::Overwritten;
use crate::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, Nothing, RegistrationStatus};
use crate::driver::Driver;
use crate::networks::Networks;

/// Largest request, bytes: paths, and what the kubelet says of a pod.
const LARGEST: usize = 64 * 1_024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a socket that root alone may connect to, in place of what an earlier agent left.
///
/// # Errors
/// It cannot be made.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for as long as the future lives.
///
/// # Errors
/// It cannot be served.
pub async fn serve(
    listener: UnixListener,
    driver: Arc<Driver>,
    networks: impl Fn(&UnixStream) + Send + Unpin,
) -> Result<(), tonic::transport::Error> {
    let server = Server::builder()
        .timeout(PATIENCE)
        .concurrency_limit_per_connection(4)
        .max_concurrent_streams(16)
        .http2_max_header_list_size(16 * 1_024);
    server.serve_with_incoming(Methods(driver), Incoming { listener, seen: networks }).await
}

/// Connections, each shown to `seen` first.
struct Incoming<F> {
    listener: UnixListener,
    seen: F,
}

impl<F: Fn(&UnixStream) + Unpin> Stream for Incoming<F> {
    type Item = io::Result<Kubelet>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_accept(cx).map(|accepted| {
            Some(accepted.map(|(stream, _)| {
                (self.seen)(&stream);
                Kubelet(Overwritten::new(stream))
            }))
        })
    }
}

/// A connection of the kubelet's.
struct Kubelet(Overwritten<UnixStream>);

impl Connected for Kubelet {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Kubelet {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Kubelet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The methods of the CSI's identity and node services, and of the kubelet's registration.
#[derive(Clone)]
struct Methods(Arc<Driver>);

impl Service<http::Request<Body>> for Methods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let driver = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/csi.v1.Identity/GetPluginInfo" => answer(request, |Nothing {}| Ok(Driver::plugin_info())).await,
                "/csi.v1.Identity/Probe" => answer(request, |Nothing {}| Ok(driver.probe())).await,
                // Of plugins and of nodes: none that would have to be said.
                "/csi.v1.Identity/GetPluginCapabilities" | "/csi.v1.Node/NodeGetCapabilities" => {
                    answer(request, |Nothing {}| Ok(Nothing {})).await
                }
                "/csi.v1.Node/NodeGetInfo" => answer(request, |Nothing {}| Ok(driver.node_info())).await,
                "/csi.v1.Node/NodePublishVolume" => answer(request, |asked: NodePublishVolumeRequest| driver.publish(&asked)).await,
                "/csi.v1.Node/NodeUnpublishVolume" => answer(request, |asked: NodeUnpublishVolumeRequest| driver.unpublish(&asked)).await,
                "/pluginregistration.Registration/GetInfo" => answer(request, |Nothing {}| Ok(driver.registration())).await,
                "/pluginregistration.Registration/NotifyRegistrationStatus" => {
                    answer(request, |status: RegistrationStatus| Ok(driver.registered(&status))).await
                }
                _ => Status::unimplemented("this driver makes directories for inline volumes, and nothing else").into_http(),
            })
        })
    }
}

/// Reads a request, and writes what comes of it.
async fn answer<Q, A>(request: http::Request<Body>, method: impl Fn(Q) -> Result<A, Status>) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(LARGEST);
    let method =
        service_fn(|request: Request<Q>| -> Ready<Result<Response<A>, Status>> { ready(method(request.into_inner()).map(Response::new)) });
    grpc.unary(method, request).await
}

/// What a kubelet connected from.
pub fn learn(networks: &Networks) -> impl Fn(&UnixStream) + Send + Unpin + use<'_> {
    |stream| networks.learn(stream)
}
