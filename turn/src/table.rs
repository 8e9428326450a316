//! Two small containers: a map with a seeded fast hash, and a slab whose slots know which tenant they have.

use std::collections::HashMap;

/// A hash map whose hash is fast and seeded: what peers choose cannot be made to collide without knowing the seed.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// An empty [`Map`].
pub(crate) fn map<K, V>(seed: u64) -> Map<K, V> {
    Map::with_hasher(foldhash::fast::FixedState::with_seed(seed))
}

/// A slot of a [`Slab`] and which of its tenants is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ref {
    pub index: u32,
    generation: u32,
}

/// Values by small numbers that are used again.
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> Ref {
        if let Some(index) = self.free.pop()
            && let Some((generation, slot)) = self.slots.get_mut(index as usize)
        {
            *slot = Some(value);
            return Ref { index, generation: *generation };
        }
        let index = self.slots.len() as u32;
        self.slots.push((0, Some(value)));
        Ref { index, generation: 0 }
    }

    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        let value = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.1.as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.1.as_mut()
    }

    /// The value, if it is still the tenant that was meant.
    #[inline]
    pub fn at(&self, reference: Ref) -> Option<&T> {
        match self.slots.get(reference.index as usize) {
            Some((generation, Some(value))) if *generation == reference.generation => Some(value),
            _ => None,
        }
    }

    /// The reference to what is in this slot now.
    pub fn reference(&self, index: u32) -> Option<Ref> {
        let (generation, slot) = self.slots.get(index as usize)?;
        slot.as_ref().map(|_| Ref { index, generation: *generation })
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, (_, value))| Some((index as u32, value.as_ref()?)))
    }

    /// One more than the highest slot ever used.
    pub fn end(&self) -> u32 {
        self.slots.len() as u32
    }
}
