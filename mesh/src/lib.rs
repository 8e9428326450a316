//! One peer's brain: camping, roster, links, paths, routing. Pure.

pub mod config;
pub mod fire;
pub mod io;
