//! `campfire-turn`: the TURN server that peers camp on.

fn main() {}
