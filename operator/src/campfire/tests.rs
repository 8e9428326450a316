//! The pure steps.
