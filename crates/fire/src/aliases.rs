//! One server that is known by two ids is camped on once (docs/protocol.md, "Servers").
//!
//! What a server says of itself can be made up by any other that holds the relay secret, so it may hide nobody but whoever says it. Two
//! things are believed: an *instance* that is the same at two conversations, which another server cannot learn, for it is told
//! another one; and a server that says another's id, which hides itself alone.

use std::time::Duration;

use campfire_protocol::carrier::ServerSlot;
use campfire_protocol::time::Time;

use crate::choice::{Choice, Conversations};
use crate::conversation::Conversation;
use crate::hearth::Hearth;

/// A server that was found to be another is asked again this much later: an address may come to be somebody else's.
const AGAIN: Duration = Duration::from_hours(1);

/// What a server turned out to be.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    /// This one, which we sit at.
    pub(crate) of: ServerSlot,
    /// It is reached on the same way: channels of both would be mixed up.
    pub(crate) one_way: bool,
    /// Which process that was.
    instance: Option<[u8; 8]>,
    until: Time,
}

impl Choice {
    /// Whether this server is another one by a second id.
    pub(crate) fn is_alias(&self, slot: ServerSlot) -> bool {
        self.alias_of(slot).is_some()
    }

    /// Which one.
    pub(crate) fn alias_of(&self, slot: ServerSlot) -> Option<ServerSlot> {
        self.standings.get(&slot)?.alias.as_ref().map(|alias| alias.of)
    }

    /// Finds servers that are one. When to look again, for those known.
    pub(crate) fn find_aliases(&mut self, hearth: &mut Hearth, conversations: &mut Conversations, now: Time) -> Vec<Time> {
        for standing in self.standings.values_mut() {
            standing.alias.take_if(|alias| {
                let other = conversations.get(&alias.of).filter(|other| other.active().is_some());
                alias.until <= now || other.is_none_or(|other| other.instance != alias.instance)
            });
        }
        let camped = |choice: &Self, conversations: &Conversations| -> Vec<ServerSlot> {
            let sits = |c: &Conversation| c.active().is_some() && c.seatings.values().any(|seating| seating.wanted && seating.seated(now));
            conversations.values().filter(|c| sits(c) && !choice.is_alias(c.slot)).map(|c| c.slot).collect()
        };
        let slots = camped(self, conversations);
        for (n, one) in slots.iter().enumerate() {
            for other in slots.iter().skip(n + 1) {
                if !self.is_alias(*one) && !self.is_alias(*other) && is_same(conversations, *one, *other) {
                    self.merge(hearth, conversations, now, *one, *other);
                }
            }
        }
        let slots = camped(self, conversations);
        for slot in &slots {
            let said = conversations.get(slot).and_then(|conversation| conversation.says_id.as_deref());
            let other = said.and_then(|said| self.slots.iter().find(|(id, _)| id.as_str() == said)).map(|(_, other)| *other);
            let Some(other) = other.filter(|other| other != slot && slots.contains(other) && !self.is_alias(*other)) else { continue };
            self.hold(conversations, now, *slot, other, false);
        }
        self.standings.values().filter_map(|standing| standing.alias.as_ref()).map(|alias| alias.until).collect()
    }

    /// Two conversations with one process. On one way the one whose frames come in goes on with its seats and channels, under the better
    /// of the two entries. On two ways the better entry goes on where it is: whoever but took over another's name gains nothing.
    fn merge(&mut self, hearth: &Hearth, conversations: &mut Conversations, now: Time, one: ServerSlot, other: ServerSlot) {
        let via = |slot: ServerSlot| conversations.get(&slot).and_then(Conversation::active).map(|active| active.via);
        let (first, second) = (via(one), via(other));
        let better = if self.rank(conversations, other) > self.rank(conversations, one) { other } else { one };
        let one_way = first == second;
        let goes_on = match first.filter(|_| one_way).and_then(|via| hearth.vias.get(&via)) {
            Some(owner) if [one, other].contains(owner) => *owner,
            Some(_) | None => better,
        };
        let ends = if goes_on == one { other } else { one };
        if goes_on != better {
            self.exchange(conversations, goes_on, ends);
        }
        self.hold(conversations, now, ends, goes_on, one_way);
    }

    /// Which of two entries of one server is the better: of the present list, by the server's own name, given by who runs us.
    fn rank(&self, conversations: &Conversations, slot: ServerSlot) -> (bool, bool, bool) {
        let own_name = conversations.get(&slot).is_some_and(|c| c.says_id.as_deref() == Some(c.server.id.as_str()));
        self.standings.get(&slot).map_or_else(Default::default, |standing| (standing.listed, own_name, standing.given))
    }

    /// Conversations stay with their seats and channels; which entry of the list they are about is exchanged.
    fn exchange(&mut self, conversations: &mut Conversations, one: ServerSlot, other: ServerSlot) {
        let (Some(mut first), Some(mut second)) = (conversations.remove(&one), conversations.remove(&other)) else { return };
        std::mem::swap(&mut first.server, &mut second.server);
        std::mem::swap(&mut first.hearsay, &mut second.hearsay);
        for (slot, conversation) in [(one, &mut first), (other, &mut second)] {
            conversation.renamed();
            self.slots.insert(conversation.server.id.clone(), slot);
        }
        conversations.extend([(one, first), (other, second)]);
        if let (Some(mut first), Some(mut second)) = (self.standings.remove(&one), self.standings.remove(&other)) {
            std::mem::swap(&mut first.listed, &mut second.listed);
            std::mem::swap(&mut first.given, &mut second.given);
            std::mem::swap(&mut first.keep_until, &mut second.keep_until);
            std::mem::swap(&mut first.visit_at, &mut second.visit_at);
            self.standings.extend([(one, first), (other, second)]);
        }
    }

    fn hold(&mut self, conversations: &Conversations, now: Time, slot: ServerSlot, of: ServerSlot, one_way: bool) {
        let instance = conversations.get(&of).and_then(|other| other.instance);
        if let Some(standing) = self.standings.get_mut(&slot) {
            standing.alias = Some(Alias { of, one_way, instance, until: now + AGAIN });
            standing.linger.clear();
        }
    }
}

/// The same process, which calls itself the same: a server that learned another's instance (it asks from our own address) would have to
/// take over its name, too, and then its own entry is the one that ends.
fn is_same(conversations: &Conversations, one: ServerSlot, other: ServerSlot) -> bool {
    let (Some(one), Some(other)) = (conversations.get(&one), conversations.get(&other)) else { return false };
    one.instance.is_some() && one.instance == other.instance && one.says_id == other.says_id
}
