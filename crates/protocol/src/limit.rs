//! Why a server takes no further member: what it answers, and what would change that.

use serde::{Deserialize, Serialize};

use crate::wire::Failure;

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// It is about to stop: newcomers go elsewhere.
    Leaving,
    /// Newcomers from one address range, for the moment.
    Newcomers,
    /// Members at one address and port.
    Seats,
    /// Rooms of one campfire.
    Rooms,
    /// Members of one room.
    Members,
    /// State in all.
    Memory,
}

impl Limit {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Leaving, Self::Newcomers, Self::Seats, Self::Rooms, Self::Members, Self::Memory];

    /// Error code and reason phrase (docs/protocol.md, "Messages").
    pub const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Leaving => (508, "Leaving"),
            Self::Newcomers => (486, "Too Many Newcomers"),
            Self::Seats => (486, "Too Many Seats"),
            Self::Rooms => (508, "Too Many Rooms"),
            Self::Members => (508, "Room Full"),
            Self::Memory => (508, "Server Full"),
        }
    }

    /// Which one a server answers with; `None`: something else is wrong, or the server is of another version.
    pub fn of(failure: &Failure) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.answer() == (failure.code, failure.reason.as_str()))
    }

    /// What whoever runs the server does about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Leaving => "nothing, if another server is there: it is being stopped or replaced",
            Self::Newcomers => "nothing: those who wait come in one after the other",
            Self::Seats => "raise --max-seats-per-source (of a Campfire: spec.turn.limits.seatsPerSource)",
            Self::Rooms => "somebody who holds its relay secret makes rooms up, or keys are rotated very often",
            Self::Members => "raise --max-members-per-room (of a Campfire: spec.turn.limits.membersPerRoom)",
            Self::Memory => "raise --max-state-mib (of a Campfire: spec.turn.limits.stateMiB)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_answer_tells_which_limit_it_is() {
        for limit in Limit::ALL {
            let (code, reason) = limit.answer();
            let failure = Failure { code, reason: reason.into(), nonce: None, unix_millis: None };
            assert_eq!(Limit::of(&failure), Some(limit));
            assert_eq!(Limit::of(&Failure { code: 400, ..failure }), None);
        }
    }
}
