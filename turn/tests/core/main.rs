//! The pure core, driven without sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod camping;
mod channels;
mod hostile;
mod large_rooms;
mod red_team;
mod turn;
mod world;
