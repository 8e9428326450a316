//! A control plane with our definitions, and what tests about Campfires put into it.

use std::path::Path;

use campfire_api::Campfire;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::DeleteParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, apply, define};

/// A control plane with our definitions.
pub struct World {
    plane: ControlPlane,
    pub client: Client,
}

#[allow(dead_code, reason = "not all tests that share this file use all of it")]
impl World {
    pub async fn start() -> Option<Self> {
        Some(Self::of(ControlPlane::start().await?).await)
    }

    pub async fn dual_stack() -> Option<Self> {
        Some(Self::of(ControlPlane::dual_stack().await?).await)
    }

    /// File by which a program gets at it.
    pub fn kubeconfig(&self) -> &Path {
        self.plane.kubeconfig()
    }

    async fn of(plane: ControlPlane) -> Self {
        let client = plane.client.clone();
        define(&client).await;
        Self { plane, client }
    }

    pub fn campfires(&self) -> Api<Campfire> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn campfire(&self, name: &str, spec: Value) {
        apply(&self.campfires(), name, &campfire(name, &spec)).await;
    }

    pub async fn secret(&self, name: &str, data: Value) {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
        let _ = self.secrets().delete(name, &DeleteParams::default()).await;
        apply(&self.secrets(), name, &secret).await;
    }

    /// A client that may do in this namespace alone what the chart lets the operator do where Campfires live.
    pub async fn with_rights_in(&self, namespace: &str) -> Client {
        let everywhere = json!([
            { "apiGroups": ["campfire.network"], "resources": ["*"], "verbs": ["*"] },
            { "apiGroups": [""], "resources": ["pods", "namespaces", "nodes", "limitranges", "resourcequotas"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["storage.k8s.io", "node.k8s.io"], "resources": ["csidrivers", "runtimeclasses"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
        ]);
        let there =
            json!([{ "apiGroups": ["", "apps"], "resources": ["secrets", "services", "serviceaccounts", "statefulsets"], "verbs": ["*"] }]);
        let rbac = |kind: &str, more: Value| {
            let mut object = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": "operator" } });
            object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object
        };
        let subjects = json!([{ "kind": "User", "name": "operator" }]);
        let bound = |kind: &str| json!({ "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "operator" }, "subjects": subjects });
        let client = || self.client.clone();
        apply(&Api::<ClusterRole>::all(client()), "operator", &rbac("ClusterRole", json!({ "rules": everywhere }))).await;
        apply(&Api::<ClusterRoleBinding>::all(client()), "operator", &rbac("ClusterRoleBinding", bound("ClusterRole"))).await;
        apply(&Api::<Role>::namespaced(client(), namespace), "operator", &rbac("Role", json!({ "rules": there }))).await;
        apply(&Api::<RoleBinding>::namespaced(client(), namespace), "operator", &rbac("RoleBinding", bound("Role"))).await;
        let mut kubeconfig: Kubeconfig = serde_json::from_slice(&std::fs::read(self.plane.kubeconfig()).unwrap()).unwrap();
        kubeconfig.auth_infos[0].auth_info.as_mut().unwrap().impersonate = Some("operator".into());
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

pub fn campfire(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "campfire.network/v1alpha1", "kind": "Campfire", "metadata": { "name": name }, "spec": spec })
}
