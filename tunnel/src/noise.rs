//! The real sessions: boringtun.
