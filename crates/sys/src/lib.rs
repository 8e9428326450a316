//! What the shells need of the system and the standard library does not offer: batches of datagrams in both directions with segmentation
//! offload, TUN devices, waiting for many descriptors, network namespaces and who sits in them.
//!
//! The one crate of the project with `unsafe`. It knows nobody, and decides nothing: how much, when and for whom is the caller's. Whatever is
//! `unsafe` works on memory that it owns or has borrowed for the call; pointers that outlive a call lead to memory of the same value, which
//! stays where it is (`fixed`). What rustix offers
//! safely is rustix's; libc is for what it lacks (`recvmmsg`, control messages, `UDP_SEGMENT`, the ioctls of TUN).
//!
//! | module | what it holds | contract |
//! | --- | --- | --- |
//! | [`udp`] | [`Socket`](udp::Socket), [`Receiver`](udp::Receiver), [`Sender`](udp::Sender) | what [`Receiver::receive`](udp::Receiver::receive) filled is read until the next one |
//! | [`tun`] | [`Tun`](tun::Tun) | each packet with its `virtio_net_hdr`, whatever the device has |
//! | [`local`] | Unix sockets of packets | one message a packet, and at most one descriptor with it |
//! | [`namespace`] | [`Network`](namespace::Network) | [`enter`](namespace::Network::enter) moves one thread, which then ends |
//! | [`process`] | [`conceal`](process::conceal), [`raise_descriptor_limit`](process::raise_descriptor_limit) | once, at the start |
//! | [`epoll`] | [`Epoll`](epoll::Epoll), [`Wake`](epoll::Wake) | after [`Wake::clear`](epoll::Wake::clear) look at what others left |

use std::io;

mod ancillary;
pub mod epoll;
mod fixed;
pub mod local;
pub mod namespace;
pub mod process;
pub mod tun;
pub mod udp;

/// The result of a system call, or why it failed.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
