//! `campfire`: the peer.

fn main() {}
