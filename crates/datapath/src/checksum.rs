//! The Internet checksum (RFC 1071), in native byte order: sums are independent of it, and results are written as native
//! bytes.

/// A running sum of 16-bit words, each in native byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd number only at the end of the data.
    #[inline]
    pub fn add(self, bytes: &[u8]) -> Self {
        // Independent lanes of 32-bit words in 64-bit sums: no carry until 2^32 words, and the compiler uses vectors.
        let mut lanes = [0u64; 8];
        let mut chunks = bytes.chunks_exact(32);
        for chunk in &mut chunks {
            for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        let mut sum = lanes.iter().sum::<u64>();
        let mut words = chunks.remainder().chunks_exact(2);
        for word in &mut words {
            sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(self.0 + sum)
    }

    /// Adds a number that stands in network byte order.
    #[inline]
    pub fn add_u16(self, word: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(word.to_be_bytes())))
    }

    /// Addresses, protocol and length: the pseudo-header of TCP and UDP (RFC 9293 §3.1, RFC 8200 §8.1).
    #[inline]
    pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        Self::default().add(addresses).add_u16(u16::from(protocol)).add_u16(length as u16)
    }

    /// The sum folded to 16 bits, as bytes to be written (not complemented: what `CHECKSUM_PARTIAL` wants).
    #[inline]
    pub fn partial(self) -> [u8; 2] {
        let mut sum = self.0;
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        (sum as u16).to_ne_bytes()
    }

    /// The checksum, as bytes to be written.
    #[inline]
    pub fn finish(self) -> [u8; 2] {
        self.partial().map(|byte| !byte)
    }

    /// Whether data summed up together with its checksum is sound.
    #[inline]
    pub fn is_sound(self) -> bool {
        self.partial() == [0xff; 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_holds() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), [0xdd, 0xf2]);
        assert_eq!(sum.finish(), [0x22, 0x0d]);
    }

    #[test]
    fn sums_agree_with_the_plain_definition_at_every_length() {
        let bytes: Vec<u8> = (0..2000u32).map(|byte| (byte * 151 + 13) as u8).collect();
        for length in 0..bytes.len() {
            let mut expected = 0u32;
            for word in bytes[..length].chunks(2) {
                expected += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
                expected = (expected & 0xffff) + (expected >> 16);
            }
            assert_eq!(Sum::default().add(&bytes[..length]).partial(), (expected as u16).to_be_bytes(), "{length} bytes");
        }
    }

    #[test]
    fn parts_may_be_added_one_by_one() {
        let bytes = [0xff; 100];
        let parts = Sum::default().add(&bytes[..30]).add(&bytes[30..64]).add(&bytes[64..]);
        assert_eq!(parts.partial(), Sum::default().add(&bytes).partial());
        assert!(parts.is_sound());
        assert_eq!(Sum::default().add_u16(0x1234).partial(), [0x12, 0x34]);
    }
}
