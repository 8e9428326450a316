//! What whoever camps needs around the fire: TLS to servers, and the frames of streams.

#![forbid(unsafe_code)]

pub mod frames;
mod tls;

pub use self::tls::{BadTrust, Tls, Trust, explain};
