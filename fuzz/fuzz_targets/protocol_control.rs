//! Any bytes as a control message.
#![no_main]

use campfire_protocol::control::Control;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(control)) = Control::decode(bytes) {
        if let Control::Probe { size, .. } | Control::ProbeReply { size, .. } = control {
            assert!(usize::from(size) <= bytes.len());
        }
        assert_eq!(Control::decode(&control.encode()), Ok(Some(control)));
    }
});
