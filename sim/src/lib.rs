//! A world for tests: clock, NATs, links, loss, many meshes and servers in one process

pub mod checksum;
pub mod conntrack;
pub mod link;
pub mod nat;
pub mod net;
pub mod queue;
pub mod random;
pub mod standin;
