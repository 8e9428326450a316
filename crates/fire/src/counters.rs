//! What the fire counts: every drop has a name.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts of what happened at the fire; they only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Names and values.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

counters! {
    /// Bytes sent to servers (campfire messages alone).
    fire_sent_bytes,
    /// Messages sent to servers.
    fire_sent_messages,
    /// Messages taken from servers.
    fire_received_messages,
    /// Messages sent again because no answer came.
    fire_retransmissions,
    /// Camps that took or refreshed a seat.
    fire_camps,
    /// Resets: a server told everything again.
    fire_resets,
    /// Times a server that we sat at stopped answering.
    fire_servers_lost,
    /// Dropped: not from where a server is.
    drop_foreign_source,
    /// Dropped: malformed messages.
    drop_malformed,
    /// Dropped: answers to nothing that was asked.
    drop_unexpected,
    /// Dropped: integrity missing or wrong.
    drop_integrity,
    /// Dropped: announcements that do not open.
    drop_sealed,
    /// Dropped: announcements that are malformed inside.
    drop_announcement_malformed,
    /// Dropped: announcements not signed by the key that they name.
    drop_signature,
    /// Dropped: announcements older than what is known.
    drop_replayed,
    /// Dropped: announcements from more than 10 minutes ahead.
    drop_future,
    /// Dropped: announcements that were not renewed for three hours.
    drop_stale,
    /// Dropped: announcements for a seat that is another's.
    drop_foreign_seat,
    /// Dropped: announcements that name our own key from a seat that is not ours.
    drop_own_key,
    /// Dropped: members beyond the roster's bound.
    drop_roster_full,
    /// Dropped: signals from seats that stayed unknown.
    drop_unknown_sender,
    /// Dropped: signals, binds or finds beyond what is kept in flight, or for a server not reached.
    drop_not_sent,
    /// Dropped: server records beyond 8 origins.
    drop_records,
}
