//! Version 1: nodes that are scripted after docs/campfire-v1.md meet through the core and through the program, and who means
//! ill gains nothing.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod meeting;
mod node;
mod program;
mod vectors;
mod world;
