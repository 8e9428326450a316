//! What a pod's interface was made of: written down by the init container, which has the rights to make it, for the sidecar, which has none to
//! change it. A Campfire whose network changes changes pods that are made from then on.

use std::path::{Path, PathBuf};
use std::{fs, io};

use campfire_api::agent::{Problem, ProblemReason, Settings};
use serde::{Deserialize, Serialize};

/// Longest file, bytes.
const LONGEST: u64 = 16 * 1_024;

/// It.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Network id, 10 hex digits.
    pub network: String,
    /// MTU, bytes.
    pub mtu: u16,
    /// Pool of the IPv4 address.
    pub ipv4_pool: Option<String>,
    /// Routes into the mesh.
    pub accept_routes: Vec<String>,
}

impl Made {
    fn path(state: &Path) -> PathBuf {
        state.join("made.json")
    }

    /// Writes it down, in the pod's state directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, state: &Path) -> io::Result<()> {
        fs::write(Self::path(state), serde_json::to_vec(self).map_err(io::Error::other)?)
    }

    /// What was written down; `None`: nothing that can be read.
    pub fn load(state: &Path) -> Option<Self> {
        let path = Self::path(state);
        fs::metadata(&path).ok().filter(|file| file.len() <= LONGEST)?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// The operator's settings, with what the interface has instead of what a new pod's would.
    pub fn applied_to(&self, settings: &Settings) -> Settings {
        let Self { network, mtu, ipv4_pool, .. } = self.clone();
        Settings { network, mtu, ipv4_pool, ..settings.clone() }
    }

    /// What changed since, with what to do.
    pub fn outdated(&self, settings: &Settings) -> Option<Problem> {
        let list = |routes: &[String]| if routes.is_empty() { "none".to_owned() } else { routes.join(" ") };
        let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "none".to_owned());
        let sorted = |routes: &[String]| {
            let mut routes = routes.to_vec();
            routes.sort_unstable();
            routes
        };
        let mut changed = Vec::new();
        if self.network != settings.network {
            changed.push(format!("network {} (now {})", self.network, settings.network));
        }
        if self.ipv4_pool != settings.ipv4_pool {
            changed.push(format!("IPv4 pool {} (now {})", pool(&self.ipv4_pool), pool(&settings.ipv4_pool)));
        }
        if self.mtu != settings.mtu {
            changed.push(format!("MTU {} (now {})", self.mtu, settings.mtu));
        }
        if sorted(&self.accept_routes) != sorted(&settings.accept_routes) {
            changed.push(format!("accepted routes {} (now {})", list(&self.accept_routes), list(&settings.accept_routes)));
        }
        if changed.is_empty() {
            return None;
        }
        // What to do comes first: of long lists the end is cut.
        let message = format!("make the pod anew: its interface was made with {}", changed.join(", "));
        Some(Problem { reason: ProblemReason::SettingsOutdated, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_since_the_interface_was_made_is_said_and_does_not_hold() {
        let made = Made { network: "0102030405".into(), mtu: 1280, ipv4_pool: Some("100.80.0.0/16".into()), accept_routes: Vec::new() };
        let told = Settings {
            version: String::new(),
            keys: Vec::new(),
            network: made.network.clone(),
            servers: Vec::new(),
            name: "pod".into(),
            namespace: "shop".into(),
            cluster: String::new(),
            ipv4_pool: made.ipv4_pool.clone(),
            accept_routes: Vec::new(),
            mtu: 1280,
            direct: true,
            uid: "u".into(),
            agent_ca: String::new(),
        };
        assert_eq!((made.outdated(&told), made.applied_to(&told)), (None, told.clone()));
        let new = Settings { ipv4_pool: Some("100.90.0.0/16".into()), mtu: 1400, accept_routes: vec!["10.8.0.0/16".into()], ..told };
        let problem = made.outdated(&new).unwrap();
        assert_eq!(problem.reason, ProblemReason::SettingsOutdated);
        assert_eq!(
            problem.message,
            "make the pod anew: its interface was made with IPv4 pool 100.80.0.0/16 (now 100.90.0.0/16), MTU 1280 (now 1400), \
             accepted routes none (now 10.8.0.0/16)"
        );
        let held = made.applied_to(&new);
        assert_eq!((held.mtu, held.ipv4_pool), (1280, made.ipv4_pool.clone()));
        assert_eq!(held.accept_routes, new.accept_routes, "whom it believes; the kernel's are as they were made");
    }
}
