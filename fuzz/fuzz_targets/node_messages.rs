//! What a pod may say to its node's agent, what the agent may answer, and grants that the operator signed without looking.
#![no_main]

use campfire_api::node::{Answer, Grant, GrantKey, MAX_MESSAGE, Request};
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;

const SEED: [u8; 32] = [7; 32];

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        let again = request.encode().expect("what was read can be written");
        assert!(again == bytes && bytes.len() <= MAX_MESSAGE);
    }
    if let Ok(answer) = Answer::decode(bytes) {
        assert_eq!(answer.encode(), bytes);
    }
    let (key, signing) = (GrantKey::from_seed(&SEED), SigningKey::from_bytes(&SEED));
    assert!(Grant::verify(bytes, &key.public()).is_err(), "a signature that nobody made");
    let signature = signing.sign(&[b"campfire/2 node grant", bytes].concat());
    let signed = [bytes, &signature.to_bytes()].concat();
    if let Ok(grant) = Grant::verify(&signed, &key.public()) {
        assert_eq!(grant.sign(&key).expect("what was read can be written"), signed);
    }
});
