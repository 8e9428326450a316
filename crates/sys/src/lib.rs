//! What the shells need of the system and the standard library does not offer. The one crate of the project with `unsafe`.

#![allow(clippy::new_without_default)]

pub mod calls;
pub mod tun;
pub mod udp;
