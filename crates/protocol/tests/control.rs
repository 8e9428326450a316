//! Control messages.
#![allow(clippy::unwrap_used, missing_docs)]

use campfire_protocol::certificate::MAX_CHAIN;
use campfire_protocol::control::{Control, ControlError};
use campfire_protocol::time::UnixSeconds;

#[test]
fn control_messages_survive() {
    for control in all() {
        assert_eq!(Control::decode(&control.encode()), Ok(Some(control)));
    }
}

#[test]
fn probes_are_padded_to_their_size_and_refused_when_shorter() {
    let probe = Control::Probe { id: u64::MAX, size: 1_200 }.encode();
    assert_eq!(probe.len(), 1_200);
    assert_eq!(Control::decode(&probe[..1_199]), Err(ControlError));
    let reply = Control::ProbeReply { id: 1, observed: None, size: 1_200 }.encode();
    assert_eq!(reply.len(), 1_200);
    assert_eq!(Control::decode(&reply[..1_199]), Err(ControlError));
}

#[test]
fn unknown_kinds_and_further_elements_are_ignored() {
    assert_eq!(Control::decode(&[0x81, 0x18, 99]), Ok(None));
    assert_eq!(Control::decode(&[0x83, 0x02, 0x05, 0x07]), Ok(Some(Control::Punch { attempt: 5 })));
    assert_eq!(Control::decode(&[0x81, 0x02, 0x05]), Err(ControlError));
    assert_eq!(Control::decode(&[]), Err(ControlError));
}

#[test]
fn a_chain_is_as_large_as_one_can_be_and_no_larger() {
    for (length, taken) in [(0, false), (1, true), (MAX_CHAIN, true), (MAX_CHAIN + 1, false)] {
        let control = Control::Chain { chain: vec![7; length], held: None };
        assert_eq!(Control::decode(&control.encode()).is_ok(), taken, "{length}");
    }
}

fn all() -> Vec<Control> {
    let addresses = vec!["192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:65535".parse().unwrap()];
    vec![
        Control::Candidates { addresses: addresses.clone(), symmetric: true, udp_blocked: false, forbidden: true, generation: 9 },
        Control::Candidates { addresses: vec![], symmetric: false, udp_blocked: true, forbidden: false, generation: u32::MAX },
        Control::Punch { attempt: 1 },
        Control::PunchAck { attempt: 1, ready: true },
        Control::Probe { id: u64::MAX, size: 0 },
        Control::Probe { id: 0, size: 1_280 },
        Control::ProbeReply { id: 5, observed: Some(addresses[1]), size: 99 },
        Control::ProbeReply { id: 5, observed: None, size: 0 },
        Control::Goodbye,
        Control::Chain { chain: vec![7; 433], held: None },
        Control::Chain { chain: vec![7], held: Some(UnixSeconds(1_800_000_000)) },
    ]
}
