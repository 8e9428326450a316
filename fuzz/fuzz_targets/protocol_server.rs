//! Any text as a server.
#![no_main]

use campfire_protocol::server::{Server, canonical_host, merge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(server) = text.parse::<Server>() {
        assert!(!server.addresses.is_empty());
        for address in &server.addresses {
            assert_eq!(canonical_host(&address.host).as_ref(), Some(&address.host));
            assert_ne!(address.port, 0);
        }
        assert_eq!(merge([server.clone(), server.clone()]), [server]);
    }
});
