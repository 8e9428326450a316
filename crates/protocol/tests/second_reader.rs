//! The vectors as somebody reads them who knows docs/protocol.md alone.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::Command;

#[test]
fn a_second_reader_of_the_text_agrees_with_the_vectors() {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import cryptography"]).is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: needs python3-cryptography");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/check.py");
    let output = python(&[script.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
