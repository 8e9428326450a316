//! The operator at each fire, without a tunnel: it publishes this cluster's server record, reads those of other clusters, and
//! sees who is there.
//!
//! One task for each Campfire: a [`campfire_fire::Fire`] in a [`campfire_camp::Camp`], with a UDP socket for each family (a server
//! holds at most 8 seats for one source address, so sockets are not shared). Its announcement says that it has no tunnel
//! (docs/protocol.md, "Announcements"): peers do not link to it.

mod camper;
mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use campfire_camp::{Tls, Trust};
use kube::ResourceExt as _;
use tokio::sync::{broadcast, oneshot};
use tracing::{error, warn};

use self::camper::Camper;
use crate::context::Context;
use crate::origin::{self, Seed};
use crate::state::ObjectKey;

/// How long it is waited before the seed is read again after an error.
const RETRY: Duration = Duration::from_secs(5);
/// How often all Campfires are looked at, whatever was said of their changes.
const SWEEP: Duration = Duration::from_mins(1);

/// A Campfire's task. It says goodbye and ends when this is dropped.
struct Seated {
    uid: String,
    _stop: oneshot::Sender<()>,
}

/// Sits at the fire of each Campfire. Runs while this operator leads; when dropped, all seats are left.
pub async fn run(ctx: Arc<Context>) {
    let mut changes = ctx.cluster.changes.campfires.subscribe();
    let seed = loop {
        match origin::load(&ctx).await {
            Ok(seed) => break seed,
            Err(error) => warn!("not at any fire yet: {error:#}; tried again in {} s", RETRY.as_secs()),
        }
        tokio::time::sleep(RETRY).await;
    };
    // Servers of this cluster are pinned; of others nobody here can say more than their record does.
    let tls = match Tls::new(&Trust::Anybody) {
        Ok(tls) => Arc::new(tls),
        Err(error) => return error!("not at any fire: {error}"),
    };
    let mut seated = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        attend(&ctx, &seed, &tls, &mut seated);
        tokio::select! {
            changed = changes.recv() => match changed {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => while changes.try_recv().is_ok() {},
                Err(broadcast::error::RecvError::Closed) => { sweep.tick().await; }
            },
            _ = sweep.tick() => {}
        }
    }
}

/// Begins and ends tasks, so that each Campfire that there is has one.
fn attend(ctx: &Context, seed: &Seed, tls: &Arc<Tls>, seated: &mut HashMap<ObjectKey, Seated>) {
    let places = ctx.cluster.places();
    let campfires: HashMap<ObjectKey, String> =
        places.campfires().iter().filter_map(|campfire| Some((ObjectKey::of(&**campfire), campfire.uid()?))).collect();
    seated.retain(|campfire, seat| campfires.get(campfire) == Some(&seat.uid));
    for (campfire, uid) in campfires {
        if seated.contains_key(&campfire) {
            continue;
        }
        let camper = Camper {
            campfire: campfire.clone(),
            identity: seed.identity(&uid),
            tls: tls.clone(),
            memberships: ctx.memberships.clone(),
            sightings: ctx.sightings.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(camper.run(stopped));
        seated.insert(campfire, Seated { uid, _stop: stop });
    }
}
