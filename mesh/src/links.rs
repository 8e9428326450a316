//! All links: who is linked, who starts, what the data plane is told.

use std::sync::Arc;

use campfire_protocol::time::Time;

use crate::config::{Config, Reconfigure};
use crate::fire::{Event, Fire};
use crate::io::{Input, Output, Table};
use crate::status::Status;

/// The links.
pub(crate) struct Links {
    table: Arc<Table>,
}

#[expect(
    unused_variables,
    clippy::unused_self,
    clippy::needless_pass_by_value,
    clippy::needless_pass_by_ref_mut,
    reason = "contract first"
)]
impl Links {
    pub(crate) fn new(config: Config, seed: [u8; 32], now: Time, fire: &Fire) -> Self {
        Self { table: Arc::default() }
    }

    pub(crate) fn handle(&mut self, now: Time, fire: &mut Fire, input: &Input<'_>) {}

    pub(crate) fn on_fire(&mut self, now: Time, fire: &mut Fire, event: Event) {}

    pub(crate) fn reconfigure(&mut self, now: Time, fire: &mut Fire, change: &Reconfigure) {}

    pub(crate) fn poll(&mut self) -> Option<Output> {
        None
    }

    pub(crate) fn next_wake(&self) -> Option<Time> {
        None
    }

    pub(crate) fn publish(&mut self, fire: &Fire) {}

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    pub(crate) fn status(&self, now: Time, fire: &Fire) -> Status {
        Status::default()
    }
}
