//! Any text as a `camp://` URI.
#![no_main]

use campfire_protocol::uri::CampUri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(mut uri) = text.parse::<CampUri>() {
        let written = uri.to_text();
        if written.len() <= campfire_protocol::uri::MAX_URI {
            let mut again: CampUri = written.parse().expect("what was written is read");
            for server in uri.servers.iter_mut().chain(&mut again.servers) {
                server.addresses.sort();
            }
            again.version1 = uri.version1;
            assert_eq!(again, uri);
        }
    }
});
