//! What the core counts. Every message that is not served as asked has a counter here.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up; in Prometheus its name ends in `_total` (already in [`Metric::name`]).
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number with its name, ready for Prometheus. Metrics of one name stand together and differ in their label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, without a prefix for the program.
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
    ($($field:ident: $kind:ident $name:literal $([$label:literal = $value:literal])?, $help:literal;)*) => {
        /// Counters and gauges.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl Stats {
            /// All of them, those of one name together.
            pub fn metrics(&self) -> impl Iterator<Item = Metric> {
                [$(Metric {
                    name: $name,
                    label: stats!(@label $($label, $value)?),
                    help: $help,
                    kind: Kind::$kind,
                    value: self.$field,
                },)*].into_iter()
            }
        }
    };
    (@label) => { None };
    (@label $label:literal, $value:literal) => { Some(($label, $value)) };
}

stats! {
    rooms: Gauge "rooms", "Rooms with at least one seat.";
    seats: Gauge "seats", "Seats taken.";
    large_rooms: Gauge "large_rooms", "Rooms with more members than everybody holds the roster of.";
    bindings: Gauge "bindings", "Channels bound between members.";
    allocations: Gauge "allocations", "Allocations (RFC 8656).";
    permissions: Gauge "permissions", "Permissions of allocations.";
    channels: Gauge "channels", "Channels of allocations.";
    memory: Gauge "state_bytes", "Bytes of state, as estimated for the memory limit.";
}
