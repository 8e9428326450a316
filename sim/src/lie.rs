//! A server that tells its clients another address than the one that it sees them at, as if that were so: signed, as all that it says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use campfire_protocol::credential::campfire_key;
use campfire_protocol::key::Keys;
use campfire_protocol::stun::{Attribute, Builder, Class, Message, Method};
use campfire_protocol::wire::CampSuccess;

/// What everybody is told.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// This address.
    Address(SocketAddr),
    /// This host, and of its ports one of their own.
    Host(IpAddr),
}

/// A lying server's memory.
#[derive(Debug, Default)]
pub(crate) struct Liar {
    /// Under which name each client asks: its answers are signed for that.
    names: BTreeMap<SocketAddr, String>,
}

impl Liar {
    /// A request came.
    pub fn asked(&mut self, from: SocketAddr, request: &[u8]) {
        if let Some(name) = Message::parse(request).ok().and_then(|message| message.text(Attribute::USERNAME).ok()?.map(str::to_owned)) {
            self.names.insert(from, name);
        }
    }

    /// What is said in place of this answer.
    pub fn instead(&self, lie: Lie, keys: &[&Keys], to: SocketAddr, answer: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(answer).ok().filter(|message| message.class() == Class::Success)?;
        let told = match lie {
            Lie::Address(address) => address,
            Lie::Host(ip) => SocketAddr::new(ip, port_of(to)),
        };
        if message.method() == Method::BINDING {
            let answer = Builder::new(Class::Success, Method::BINDING, message.transaction());
            return Some(answer.xor_address(Attribute::XOR_MAPPED_ADDRESS, told).finish());
        }
        let success = CampSuccess { observed: told, ..CampSuccess::decode(&message).ok()? };
        let name = self.names.get(&to)?;
        let signing = keys.iter().map(|keys| campfire_key(&keys.relay, name)).find(|key| message.verify_sha256(&**key).is_ok())?;
        Some(success.encode(message.transaction(), &signing))
    }
}

fn port_of(client: SocketAddr) -> u16 {
    let IpAddr::V4(ip) = client.ip() else { return client.port() };
    1_024 + (ip.to_bits() as u16 ^ client.port()) % 60_000
}
