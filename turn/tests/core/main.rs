//! The pure core, driven without sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod camping;
mod channels;
mod hostile;
mod large_rooms;
mod turn;
mod world;
