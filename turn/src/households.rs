//! Who sits in a room, by household (an IPv4 address, an IPv6 /64), kept in order: so that who makes way is found without
//! looking at every seat.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use campfire_protocol::time::Time;

/// A seat by the time it was taken: the youngest is the greatest.
type Sitting = (Time, u32);

/// A room's households.
#[derive(Default)]
pub(crate) struct Households {
    /// Seats of each.
    seats: BTreeMap<IpAddr, usize>,
    /// Seats that never exchanged a frame: these may be evicted.
    idle: BTreeSet<(IpAddr, Sitting)>,
    /// Households that have such, by how many seats they hold, each with its youngest.
    heaviest: BTreeSet<(usize, Sitting, IpAddr)>,
}

impl Households {
    /// A seat of this household.
    pub fn add(&mut self, household: IpAddr, sitting: Sitting, exchanged: bool) {
        self.change(household, |all| {
            *all.seats.entry(household).or_default() += 1;
            if !exchanged {
                all.idle.insert((household, sitting));
            }
        });
    }

    /// It is gone, or sits elsewhere.
    pub fn remove(&mut self, household: IpAddr, sitting: Sitting) {
        self.change(household, |all| {
            all.idle.remove(&(household, sitting));
            if let Some(seats) = all.seats.get_mut(&household) {
                *seats -= 1;
                if *seats == 0 {
                    all.seats.remove(&household);
                }
            }
        });
    }

    /// It exchanged a frame: it is not evicted any more.
    pub fn keep(&mut self, household: IpAddr, sitting: Sitting) {
        self.change(household, |all| {
            all.idle.remove(&(household, sitting));
        });
    }

    /// How many seats a household holds.
    pub fn count(&self, household: IpAddr) -> usize {
        self.seats.get(&household).copied().unwrap_or(0)
    }

    /// The household that holds all seats, if one does.
    pub fn only(&self) -> Option<IpAddr> {
        let mut all = self.seats.keys();
        all.next().copied().filter(|_| all.next().is_none())
    }

    /// Whether any seat never exchanged a frame.
    pub fn any_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// How many seats the household holds that holds the most and may lose one, and its youngest such seat. Not of `but`.
    pub fn heaviest(&self, but: Option<IpAddr>) -> Option<(usize, Sitting)> {
        self.heaviest.iter().rev().find(|(_, _, household)| Some(*household) != but).map(|(seats, sitting, _)| (*seats, *sitting))
    }

    fn change(&mut self, household: IpAddr, change: impl FnOnce(&mut Self)) {
        if let Some(weight) = self.weight(household) {
            self.heaviest.remove(&weight);
        }
        change(self);
        if let Some(weight) = self.weight(household) {
            self.heaviest.insert(weight);
        }
    }

    fn weight(&self, household: IpAddr) -> Option<(usize, Sitting, IpAddr)> {
        let all = (household, (Time::default(), 0))..=(household, (Time::from_micros(u64::MAX), u32::MAX));
        let (_, youngest) = self.idle.range(all).next_back()?;
        Some((self.count(household), *youngest, household))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_heaviest_household_gives_its_youngest_idle_seat() {
        let mut households = Households::default();
        for (household, at, seat) in [(A, 1, 1), (A, 2, 2), (A, 3, 3), (B, 4, 4), (B, 5, 5)] {
            households.add(household, (Time::from_micros(at), seat), false);
        }
        assert_eq!(households.heaviest(None), Some((3, (Time::from_micros(3), 3))));
        assert_eq!(households.heaviest(Some(A)), Some((2, (Time::from_micros(5), 5))));
        households.keep(A, (Time::from_micros(3), 3));
        assert_eq!(households.heaviest(None), Some((3, (Time::from_micros(2), 2))), "still three seats");
        households.remove(A, (Time::from_micros(2), 2));
        assert_eq!(households.heaviest(None), Some((2, (Time::from_micros(5), 5))), "of two with two, who has the youngest");
        households.remove(A, (Time::from_micros(1), 1));
        households.remove(A, (Time::from_micros(3), 3));
        households.remove(B, (Time::from_micros(4), 4));
        households.keep(B, (Time::from_micros(5), 5));
        assert_eq!((households.count(A), households.count(B), households.heaviest(None)), (0, 1, None));
    }
}
