//! What the core counts. Every message that is not served as asked has a counter here.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number with its name, ready for Prometheus. Metrics of one name stand together and differ in their label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, without a prefix for the program and, for counters, without `_total`.
    pub name: &'static str,
    /// Label and its value.
    pub label: Option<(&'static str, &'static str)>,
    /// For people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Value.
    pub value: u64,
}

macro_rules! stats {
    ($($kind:ident $name:literal, $help:literal { $($field:ident $([$label:literal = $value:literal])?),* $(,)? })*) => {
        /// Counters and gauges; [`Stats::metrics`] says what each is.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each has its help")]
        pub struct Stats {
            $($(pub $field: u64,)*)*
        }

        impl Stats {
            /// All of them, those of one name together.
            pub fn metrics(&self) -> impl Iterator<Item = Metric> {
                [$($(Metric {
                    name: $name,
                    label: stats!(@label $($label, $value)?),
                    help: $help,
                    kind: Kind::$kind,
                    value: self.$field,
                },)*)*].into_iter()
            }
        }
    };
    (@label) => { None };
    (@label $label:literal, $value:literal) => { Some(($label, $value)) };
}

stats! {
    Gauge "rooms", "Rooms with at least one seat." { rooms }
    Gauge "large_rooms", "Rooms too large for everybody to hold the roster." { large_rooms }
    Gauge "seats", "Seats taken." { seats }
    Gauge "bindings", "Channels bound between members." { bindings }
    Gauge "allocations", "Allocations (RFC 8656)." { allocations }
    Gauge "permissions", "Permissions of allocations." { permissions }
    Gauge "channels", "Channels of allocations." { channels }
    Gauge "clients", "Addresses and streams with a seat or an allocation." { clients }
    Gauge "state_bytes", "State, as estimated for the memory limit." { memory }

    Counter "requests", "Requests and Send indications, by method." {
        requests_binding["method" = "binding"],
        requests_allocate["method" = "allocate"],
        requests_refresh["method" = "refresh"],
        requests_create_permission["method" = "create_permission"],
        requests_channel_bind["method" = "channel_bind"],
        requests_send["method" = "send"],
        requests_camp["method" = "camp"],
        requests_find["method" = "find"],
        requests_signal["method" = "signal"],
        requests_bind["method" = "bind"],
        requests_unknown["method" = "unknown"],
    }
    Counter "errors", "Error responses, by code." {
        errors_400["code" = "400"],
        errors_401["code" = "401"],
        errors_403["code" = "403"],
        errors_404["code" = "404"],
        errors_420["code" = "420"],
        errors_437["code" = "437"],
        errors_438["code" = "438"],
        errors_440["code" = "440"],
        errors_441["code" = "441"],
        errors_442["code" = "442"],
        errors_443["code" = "443"],
        errors_486["code" = "486"],
        errors_508["code" = "508"],
        errors_other["code" = "other"],
    }
    Counter "refused_credentials", "Requests whose credentials were not taken, by reason." {
        refused_absent["reason" = "absent"],
        refused_wrong["reason" = "wrong"],
        refused_expired["reason" = "expired"],
        refused_clock["reason" = "clock"],
        refused_stale["reason" = "stale_nonce"],
        refused_moved["reason" = "seat_elsewhere"],
        refused_campfire["reason" = "campfire_cannot_allocate"],
    }
    Counter "limits_reached", "Requests refused because of a limit, by limit." {
        limited_memory["limit" = "memory"],
        limited_members["limit" = "members"],
        limited_rooms["limit" = "rooms"],
        limited_seats_per_source["limit" = "seats_per_source"],
        limited_newcomers["limit" = "newcomers"],
        limited_announcement["limit" = "announcement"],
        limited_bindings["limit" = "bindings"],
        limited_requests["limit" = "requests"],
        limited_signals["limit" = "signals"],
        limited_allocations["limit" = "allocations"],
        limited_allocations_per_user["limit" = "allocations_per_user"],
        limited_permissions["limit" = "permissions"],
        limited_channels["limit" = "channels"],
        limited_draining["limit" = "draining"],
        limited_ports["limit" = "relay_ports"],
    }
    Counter "dropped", "Messages and frames that were dropped, by reason." {
        dropped_malformed["reason" = "malformed"],
        dropped_fingerprint["reason" = "wrong_fingerprint"],
        dropped_unexpected["reason" = "unexpected"],
        dropped_unproven["reason" = "unproven_source_limit"],
        dropped_no_client["reason" = "no_seat_or_allocation"],
        dropped_no_channel["reason" = "no_channel"],
        dropped_absent["reason" = "receiver_absent"],
        dropped_slow_limit["reason" = "slow_frame_limit"],
        dropped_slow_size["reason" = "slow_frame_too_large"],
        dropped_push_unproven["reason" = "push_to_unproven"],
        dropped_push_overflow["reason" = "push_overflow"],
        dropped_no_permission["reason" = "no_permission"],
        dropped_no_allocation["reason" = "no_allocation"],
        dropped_bandwidth["reason" = "bandwidth"],
    }
    Counter "seats_ended", "Seats that ended, by reason." {
        ended_left["reason" = "left"],
        ended_expired["reason" = "expired"],
        ended_evicted["reason" = "evicted"],
        ended_secret["reason" = "secret_removed"],
    }
    Counter "seats_taken", "Seats that were taken." { taken }
    Counter "seats_moved", "Seats that moved to another address." { moved }
    Counter "bindings_lost", "Bindings that ended because their channel was taken where the seat moved to." { bindings_lost }
    Counter "announcements", "Announcements stored: new or changed." { announcements }
    Counter "resets", "Camp answers that told the member to begin anew." { resets }
    Counter "pushed", "Indications pushed to members, by kind." {
        pushed_embers["kind" = "ember"],
        pushed_signals["kind" = "signal"],
        pushed_slow["kind" = "slow_frame"],
    }
    Counter "relayed_frames", "Frames relayed, by way." {
        frames_members["way" = "member_to_member"],
        frames_to_peer["way" = "client_to_peer"],
        frames_to_client["way" = "peer_to_client"],
    }
    Counter "relayed_bytes", "Payload bytes relayed, by way." {
        bytes_members["way" = "member_to_member"],
        bytes_to_peer["way" = "client_to_peer"],
        bytes_to_client["way" = "peer_to_client"],
    }
    Gauge "v1_waiters", "Nodes of version 1 that wait for others." { v1_waiters }
    Gauge "v1_negotiations", "Negotiations between nodes of version 1 in this hour." { v1_negotiations }
    Gauge "v1_held_bytes", "What joiners of version 1 have sent to waiters that have not announced themselves yet." { v1_held }
    Counter "v1_messages", "Messages of version 1 that were understood, by type." {
        v1_announces["type" = "announce"],
        v1_offers["type" = "offer"],
        v1_answers["type" = "answer"],
        v1_candidates["type" = "candidate"],
    }
    Counter "v1_forwarded", "Datagrams of version 1 that were passed on." { v1_forwarded }
    Counter "v1_dropped", "Datagrams of version 1 that were dropped, by reason." {
        v1_dropped_malformed["reason" = "malformed"],
        v1_dropped_sender["reason" = "source_rate"],
        v1_dropped_receiver["reason" = "receiver_rate"],
        v1_dropped_no_receiver["reason" = "no_receiver"],
        v1_dropped_hold["reason" = "hold_limit"],
        v1_dropped_lapsed["reason" = "lapsed"],
        v1_dropped_repeated["reason" = "repeated"],
        v1_dropped_full["reason" = "full"],
    }
    Counter "v1_ended", "Waiters and negotiations of version 1 that ended, by reason." {
        v1_ended_expired["reason" = "expired"],
        v1_ended_source["reason" = "source_limit"],
        v1_ended_full["reason" = "made_way"],
    }
}

impl Stats {
    /// Counts an error response.
    pub(crate) fn error(&mut self, code: u16) {
        *match code {
            400 => &mut self.errors_400,
            401 => &mut self.errors_401,
            403 => &mut self.errors_403,
            404 => &mut self.errors_404,
            420 => &mut self.errors_420,
            437 => &mut self.errors_437,
            438 => &mut self.errors_438,
            440 => &mut self.errors_440,
            441 => &mut self.errors_441,
            442 => &mut self.errors_442,
            443 => &mut self.errors_443,
            486 => &mut self.errors_486,
            508 => &mut self.errors_508,
            _ => &mut self.errors_other,
        } += 1;
    }
}
