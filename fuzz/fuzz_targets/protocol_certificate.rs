//! Any bytes as a chain of certificates, or as what a delegated issuer is in text.
#![no_main]

use std::sync::LazyLock;

use campfire_protocol::certificate::{Chain, Issuer, MAX_CHAIN, RootKey, RootPublic};
use campfire_protocol::time::UnixMillis;
use libfuzzer_sys::fuzz_target;

// Root and time of crates/protocol/vectors/certificates.json: the seeds hold.
static ROOT: LazyLock<RootPublic> = LazyLock::new(|| RootKey::from_seed(&[1; 32]).public());
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fuzz_target!(|bytes: &[u8]| {
    if let Ok(chain) = Chain::from_bytes(bytes) {
        assert!(bytes.len() <= MAX_CHAIN);
        // Lengths may have been longer than they need be.
        let written = chain.to_bytes();
        assert!(written.len() <= bytes.len());
        assert_eq!(Chain::from_bytes(&written), Ok(chain.clone()));
        if let Ok(certified) = chain.verify(&[*ROOT], &[NOW]) {
            assert_eq!(certified.peer(), chain.peer());
            assert!(!certified.holds_for(&[NOW]).is_zero() && certified.peer().name.len() <= 63);
            assert!(certified.cluster().len() <= 38);
        }
    }
    if let Some(issuer) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Issuer>().ok()) {
        assert_eq!(issuer.to_text().parse::<Issuer>().as_ref(), Ok(&issuer));
    }
});
