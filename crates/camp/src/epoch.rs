//! The machine's clocks, as the pure crates want them.

use std::future::pending;
use std::time::{Duration, Instant, SystemTime};

use campfire_protocol::time::{Time, UnixMillis};

/// The moment from which a process counts its [`Time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(Instant);

impl Epoch {
    /// It is now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Time since then.
    pub fn now(self) -> Time {
        Time::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When that will be.
    pub fn at(self, time: Time) -> Instant {
        self.0 + Duration::from_micros(time.as_micros())
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }
}

/// The wall clock.
pub fn unix_millis() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits until then; for ever, if there is no such time.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
