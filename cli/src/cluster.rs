//! One context of the kubeconfig: its objects, its sidecars, and what to do where they cannot be had.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use campfire_api::names::{CAMPFIRE_ANNOTATION, ENABLED, INJECTED_LABEL, SIDECAR_CONTAINER};
use campfire_api::{Campfire, MeshPeer};
use futures_util::stream::{self, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, ListParams};
use kube::client::UpgradeConnectionError;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::ask::complaint;
use crate::cli::Scope;
use crate::member::Member;
use crate::report::{Netcheck, Report};

/// How long an API server may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a sidecar may take to tell what it knows.
const TELL: Duration = Duration::from_secs(20);
/// Objects that are asked for at once.
const PAGE: u32 = 500;
/// Sidecars that are asked at the same time.
pub const AT_ONCE: usize = 16;
/// The longest answer of a sidecar, in bytes.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// One cluster, and where to look in it.
#[derive(Clone)]
pub struct Cluster {
    /// The context's name; empty: there is no kubeconfig, as in a pod.
    pub context: String,
    /// The namespace; `None`: all.
    pub namespace: Option<String>,
    /// The way to its API server.
    pub client: Client,
}

/// What came of a command in a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// What it printed.
    pub printed: String,
    /// What it said of errors.
    pub complained: String,
    /// It ended well.
    pub well: bool,
}

impl Cluster {
    /// Those that are meant: each context that is named, else the current one.
    pub async fn of(scope: &Scope) -> Result<Vec<Self>> {
        if scope.context.is_empty() {
            return Ok(vec![Self::open(scope, None).await?]);
        }
        let mut clusters = Vec::new();
        for context in &scope.context {
            clusters.push(Self::open(scope, Some(context)).await?);
        }
        Ok(clusters)
    }

    /// One of them by its context.
    pub async fn open(scope: &Scope, context: Option<&str>) -> Result<Self> {
        let (mut config, context) = configuration(scope.kubeconfig.as_deref(), context).await?;
        config.connect_timeout = Some(CONNECT);
        let namespace = scope.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).with_context(|| format!("context {context}"))?;
        Ok(Self { context, namespace: Some(namespace).filter(|_| !scope.all_namespaces), client })
    }

    /// Where it looks, in words.
    pub fn place(&self) -> String {
        let namespace = self.namespace.as_deref().map_or_else(|| "any namespace".to_owned(), |namespace| format!("namespace {namespace}"));
        if self.context.is_empty() { namespace } else { format!("{namespace} of context {}", self.context) }
    }

    /// Where objects of a kind are.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Its Campfires, by name.
    pub async fn campfires(&self) -> Result<Vec<Campfire>> {
        self.list("campfires.campfire.network", ListParams::default()).await
    }

    /// Its MeshPeers, by name.
    pub async fn peers(&self) -> Result<Vec<MeshPeer>> {
        self.list("meshpeers.campfire.network", ListParams::default()).await
    }

    /// Its pods with a sidecar, by name.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let pods: Vec<Pod> = self.list("pods", ListParams::default().labels(&format!("{INJECTED_LABEL}={ENABLED}"))).await?;
        Ok(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(member).collect())
    }

    async fn list<K>(&self, what: &str, params: ListParams) -> Result<Vec<K>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api = self.api::<K>();
        let mut params = params.limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page = api.list(&params).await.map_err(|error| self.explain(&error, &format!("list {what}")))?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
        found.sort_by_key(|object| (object.namespace(), object.name_any()));
        Ok(found)
    }

    /// Why something could not be done, and what to do. `doing` is a verb and a resource, as RBAC knows them.
    pub fn explain(&self, error: &kube::Error, doing: &str) -> anyhow::Error {
        let context = if self.context.is_empty() { String::new() } else { format!(" (context {})", self.context) };
        if let kube::Error::Api(status) = error {
            return match status.code {
                401 => anyhow!("the API server does not know you{context}: {}", status.message),
                403 => anyhow!("you lack the right to {doing} in {}: {}", self.place(), status.message),
                404 if doing.contains("campfire.network") => anyhow!(
                    "there is no Campfire in this cluster{context}: its definitions are not installed (helm install campfire charts/campfire, docs/kubernetes.md)"
                ),
                _ => anyhow!("cannot {doing} in {}: {}", self.place(), status.message),
            };
        }
        if let kube::Error::SerdeError(error) = error {
            return anyhow!(
                "what the API server{context} has is not understood: is the operator of another version than this plugin? ({error})"
            );
        }
        let mut reason: &dyn std::error::Error = error;
        while let Some(source) = reason.source() {
            reason = source;
        }
        anyhow!("the API server{context} cannot be asked: {reason}")
    }

    /// Runs `campfire` with these words in a pod's sidecar. Each line is handed on as it comes.
    pub async fn run(&self, member: &Member, words: &[&str], mut line: impl FnMut(&str)) -> Result<Ran> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &member.namespace);
        let size = Some(64 * 1024);
        let how =
            AttachParams { max_stdout_buf_size: size, max_stderr_buf_size: size, ..AttachParams::default() }.container(SIDECAR_CONTAINER);
        let command = [&["campfire"], words].concat();
        let mut process = pods.exec(&member.name, command, &how).await.map_err(|error| self.explain_exec(&error, member))?;
        let status = process.take_status();
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let mut ran = Ran::default();
        let reading = async {
            if let Some(stdout) = stdout {
                let mut lines = BufReader::new(stdout.take(MAX_ANSWER)).lines();
                while let Some(text) = lines.next_line().await? {
                    line(&text);
                    ran.printed.push_str(&text);
                    ran.printed.push('\n');
                }
            }
            Ok::<_, std::io::Error>(())
        };
        let complaining = async {
            let mut text = String::new();
            if let Some(stderr) = stderr {
                stderr.take(MAX_ANSWER).read_to_string(&mut text).await?;
            }
            Ok::<_, std::io::Error>(text)
        };
        let (read, complained) = tokio::join!(reading, complaining);
        read.with_context(|| format!("the connection to {} broke", member.name))?;
        complained.unwrap_or_default().trim_end().clone_into(&mut ran.complained);
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        ran.well = status.as_ref().is_some_and(|status| status.status.as_deref() == Some("Success"));
        if !ran.well && ran.complained.is_empty() {
            ran.complained = status.and_then(|status| status.message).unwrap_or_default();
        }
        Ok(ran)
    }

    fn explain_exec(&self, error: &kube::Error, member: &Member) -> anyhow::Error {
        let (namespace, name) = (&member.namespace, &member.name);
        let kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) = error else {
            return self.explain(error, "create pods/exec");
        };
        match code.as_u16() {
            403 => anyhow!(
                "you lack the right to create pods/exec in namespace {namespace} of context {}: by it sidecars are asked",
                self.context
            ),
            404 => anyhow!("pod {name} in namespace {namespace} is gone"),
            400 => anyhow!("pod {name} has no container {SIDECAR_CONTAINER} that runs"),
            code => anyhow!("the sidecar of {name} cannot be asked: the API server answers {code} (does its kubelet answer?)"),
        }
    }

    /// What a pod's sidecar knows.
    pub async fn report(&self, member: &Member) -> Result<Report> {
        let asked = tokio::time::timeout(TELL, self.run(member, &["status", "--json"], |_| ())).await;
        let ran = asked.map_err(|_| anyhow!("the sidecar of {} does not answer within {} s", member.name, TELL.as_secs()))??;
        if !ran.well {
            bail!("the sidecar of {}: {}", member.name, ran.complained);
        }
        serde_json::from_str(&ran.printed).with_context(|| format!("what the sidecar of {} says is not understood", member.name))
    }

    /// What a pod's sidecar finds of its servers, which it tries now.
    pub async fn netcheck(&self, member: &Member) -> Result<Netcheck> {
        let asked = tokio::time::timeout(TELL, self.run(member, &["netcheck", "--json"], |_| ())).await;
        let ran = asked.map_err(|_| anyhow!("the sidecar of {} does not answer within {} s", member.name, TELL.as_secs()))??;
        // That no server answers is told as a failure, and as what was found.
        if !ran.well && ran.printed.is_empty() {
            return Err(complaint(&ran, member));
        }
        serde_json::from_str(&ran.printed).with_context(|| format!("what the sidecar of {} says is not understood", member.name))
    }

    /// What the sidecars of these pods know, in their order.
    pub async fn reports(&self, members: &[Member]) -> Vec<(Member, Result<Report>)> {
        let asked = stream::iter(members.iter().cloned()).map(|member| async move {
            let report = self.report(&member).await;
            (member, report)
        });
        asked.buffered(AT_ONCE).collect().await
    }
}

async fn configuration(file: Option<&Path>, context: Option<&str>) -> Result<(Config, String)> {
    let kubeconfig = match file {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match kubeconfig {
        Ok(kubeconfig) => kubeconfig,
        // In a pod there is none.
        Err(error) if file.is_none() && context.is_none() => match Config::incluster() {
            Ok(config) => return Ok((config, String::new())),
            Err(_) => return Err(anyhow!("there is no kubeconfig: {error}")),
        },
        Err(error) => return Err(anyhow!("the kubeconfig cannot be read: {error}")),
    };
    let name = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
    if !kubeconfig.contexts.iter().any(|known| known.name == name) {
        let known: Vec<&str> = kubeconfig.contexts.iter().map(|known| known.name.as_str()).collect();
        if name.is_empty() {
            bail!("the kubeconfig has no current context: name one with --context ({})", known.join(", "));
        }
        bail!("the kubeconfig has no context {name}; it has: {}", known.join(", "));
    }
    let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(|| format!("context {name} of the kubeconfig"))?;
    Ok((config, name))
}

/// A pod with a sidecar.
pub fn member(pod: &Pod) -> Member {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    Member {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        ready: conditions.is_some_and(|conditions| conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")),
        campfire: pod.annotations().get(CAMPFIRE_ANNOTATION).cloned().unwrap_or_default(),
        image: containers.filter(|it| it.name == SIDECAR_CONTAINER).find_map(|it| it.image.clone()).unwrap_or_default(),
    }
}
