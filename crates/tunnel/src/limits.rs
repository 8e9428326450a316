//! How many handshake messages are looked at, by where they come from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::PublicKey;

use crate::{Source, TunnelError, Unidentified};

/// Direct handshake messages in a second that need no cookie: as many Diffie-Hellmans are a hundredth of a core.
const WITHOUT_COOKIE: u64 = 200;
/// Sources with a cookie that are told apart.
const SOURCES: usize = 1_024;
/// Bytes of a cookie reply.
const COOKIE_REPLY: usize = 64;

/// Tokens that come back at a steady rate.
pub(crate) struct Bucket {
    tokens: f32,
    burst: f32,
    per_second: f32,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(burst: f32, per_second: f32) -> Self {
        Self { tokens: burst, burst, per_second, at: Instant::now() }
    }

    pub(crate) fn take(&mut self) -> Result<(), TunnelError> {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f32() * self.per_second).min(self.burst);
        self.at = now;
        if self.tokens < 1.0 {
            return Err(TunnelError::Limited);
        }
        self.tokens -= 1.0;
        Ok(())
    }

    /// Nothing was taken for so long that it is as if it were new.
    fn is_full(&self, now: Instant) -> bool {
        self.tokens + now.duration_since(self.at).as_secs_f32() * self.per_second >= self.burst
    }
}

/// What handshakes may cost.
pub(crate) struct Limits {
    /// Diffie-Hellmans for finding out who made an initiation that came through a server,
    relayed: Bucket,
    /// or directly. No flood of those takes from the others.
    direct: Bucket,
    /// boringtun's limiter, which makes and checks cookies once there are more than it lets through.
    cookies: RateLimiter,
    /// Initiations of each source whose cookie came back, while cookies are asked for.
    sources: HashMap<IpAddr, Bucket>,
    /// Initiations from keys without a link, relayed and direct. The first one is always relayed: directly come those of whom we forgot.
    strangers: [Bucket; 2],
    /// Responses and cookies that came directly.
    conclusions: Bucket,
}

impl Limits {
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self {
            relayed: Bucket::new(4_000.0, 2_000.0),
            direct: Bucket::new(1_000.0, 1_000.0),
            cookies: RateLimiter::new(public, WITHOUT_COOKIE),
            sources: HashMap::new(),
            strangers: [Bucket::new(500.0, 200.0), Bucket::new(100.0, 50.0)],
            conclusions: Bucket::new(1_000.0, 1_000.0),
        }
    }

    /// Whether to find out who made an initiation whose mac1 is right.
    pub(crate) fn initiation(&mut self, message: &[u8], from: Source) -> Result<(), Unidentified> {
        let Source::Direct(source) = from else { return self.relayed.take().map_err(Unidentified::Refused) };
        self.cookies.reset_count();
        let mut reply = [0; COOKIE_REPLY];
        match self.cookies.verify_packet(Some(source), message, &mut reply) {
            Ok(_) => {}
            Err(TunnResult::WriteToNetwork(cookie)) => return Err(Unidentified::Cookie(cookie.to_vec())),
            Err(TunnResult::Err(WireGuardError::UnderLoad)) => return Err(Unidentified::Refused(TunnelError::Limited)),
            Err(_) => return Err(Unidentified::Refused(TunnelError::Forged)),
        }
        // Without a cookie there is none to whom its own share could be given.
        if message.get(132..148).is_some_and(|mac2| mac2 != [0; 16]) {
            self.source(source).map_err(Unidentified::Refused)?;
        }
        self.direct.take().map_err(Unidentified::Refused)
    }

    /// Takes a token of a source's that has a cookie.
    fn source(&mut self, source: IpAddr) -> Result<(), TunnelError> {
        let household = household(source);
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&household) {
            let now = Instant::now();
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= SOURCES {
                return Err(TunnelError::Limited);
            }
        }
        self.sources.entry(household).or_insert_with(|| Bucket::new(50.0, 10.0)).take()
    }

    /// Whether one of whom we know nothing may be made known to the mesh.
    pub(crate) fn stranger(&mut self, from: Source) -> Result<(), TunnelError> {
        self.strangers[usize::from(from != Source::Relayed)].take()
    }

    /// Whether to look at a response or a cookie that came directly.
    pub(crate) fn conclusion(&mut self) -> Result<(), TunnelError> {
        self.conclusions.take()
    }
}

/// An IPv4 address, or the /64 of an IPv6 one: whoever has one address of it has them all.
fn household(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
