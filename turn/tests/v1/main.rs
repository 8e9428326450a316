//! Version 1: nodes that are scripted after docs/campfire-v1.md meet through the core, and who means
//! ill gains nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod hostile;
mod meeting;
mod node;
mod vectors;
mod world;
