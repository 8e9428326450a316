//! A quick keyed checksum: what the stand-in sessions use in place of cryptography, and the trace for its hash.

/// A running hash of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// A hash that begins with this key.
    pub const fn new(key: u64) -> Self {
        Self(key ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Adds a number.
    pub fn add(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0xda94_2042_e4dd_58b5;
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(value.rotate_left(23)) ^ 0xe703_7ed1_a0b4_28db;
    }

    /// Adds bytes and their number.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.add(u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.add(u64::from_le_bytes(last));
        self.add(bytes.len() as u64);
    }

    /// The hash so far.
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// 32 bytes that depend on all parts.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    for (lane, chunk) in out.chunks_exact_mut(8).enumerate() {
        let mut hash = Hash::new(lane as u64);
        for part in parts {
            hash.add_bytes(part);
        }
        chunk.copy_from_slice(&hash.value().to_le_bytes());
    }
    out
}

/// A tag of 16 bytes over `bytes` under `key`.
pub fn tag(key: &[u8; 32], bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    for (lane, chunk) in out.chunks_exact_mut(8).enumerate() {
        let mut hash = Hash::new(lane as u64);
        hash.add_bytes(key);
        hash.add_bytes(bytes);
        chunk.copy_from_slice(&hash.value().to_le_bytes());
    }
    out
}
