//! What a datapath counts.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the beginning. What a packet's loss is put down to stands here, once for each packet.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter's name, in the order of [`values`](Self::values).
            pub const NAMES: [&str; [$(stringify!($name)),*].len()] = [$(stringify!($name)),*];

            /// Every counter's value.
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$name),*]
            }
        }
    };
}

counters! {
    /// IP packets taken from the interface (a superpacket counts as its segments).
    tun_read_packets,
    /// Datagrams and frames that are none of STUN, ChannelData, WireGuard, or are ChannelData or STUN from elsewhere than a server.
    dropped_unrecognised,
    /// WireGuard messages for a session that is not ours (any more).
    dropped_unknown_session,
    /// WireGuard messages that did not authenticate.
    dropped_forged,
    /// WireGuard messages seen before, or too old.
    dropped_replayed,
    /// Handshakes beyond a member's rate.
    dropped_limited,
    /// Packets inside WireGuard that are not sound IP packets.
    dropped_malformed,
    /// Packets inside WireGuard with a source address that is not the link's.
    dropped_source,
    /// Packets inside WireGuard to an address that is neither ours nor on a route that we offer.
    dropped_destination,
    /// Packets from the interface to an address that nobody has.
    dropped_no_route,
    /// Of these, those whose sender was told by ICMP that the destination is unreachable.
    unreachable_told,
    /// Packets from the interface that waited for a session too long, or beyond the bound.
    dropped_no_session,
    /// Packets from the interface that were no sound IP packets.
    dropped_tun_malformed,
    /// Messages longer than a datagram or a stream's batch.
    dropped_too_long,
}
