//! `campfire-turn`: the TURN server that peers camp on.

use std::process::ExitCode;

mod shell;

fn main() -> ExitCode {
    ExitCode::from(shell::main())
}
