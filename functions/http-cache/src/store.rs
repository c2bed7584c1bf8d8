//! Where responses lie.
//!
//! Owns: finding them by key and variant, and bounded memory: the one that was used longest ago
//! goes first. Must not know: when a response may be used.

use std::rc::Rc;

use weir_sdk::hash::ByHash;

use crate::control::Freshness;

/// Most variants of one target.
const VARIANTS_MAX: usize = 16;
/// Bytes that an entry takes besides its texts.
const OVERHEAD: usize = 512;
/// So many seconds somebody who asks is waited for.
const ASKING_MAX: u64 = 20;

pub(crate) type Field = (Vec<u8>, Vec<u8>);

/// A stored response.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Scheme, authority and target.
    pub(crate) key: Vec<u8>,
    /// Fields of requests that it is for: names, and what they were (RFC 9111, section 4.1).
    pub(crate) vary: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) status: u16,
    pub(crate) fields: Vec<Field>,
    /// Those who ask whether it still holds have it, too.
    pub(crate) body: Rc<Vec<u8>>,
    pub(crate) freshness: Freshness,
    /// Since when somebody asks whether it still holds, in seconds; 0 if nobody does.
    pub(crate) asking_since: u64,
}

impl Stored {
    pub(crate) fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(n, _)| n == name.as_bytes()).map(|(_, value)| &value[..])
    }

    /// Whether somebody asks if it still holds.
    pub(crate) fn is_asked_about(&self, now: u64) -> bool {
        self.asking_since != 0 && now < self.asking_since + ASKING_MAX
    }

    fn size(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        let vary: usize =
            self.vary.iter().map(|(name, v)| name.len() + v.as_ref().map_or(0, Vec::len)).sum();
        OVERHEAD + self.key.len() + fields + vary + self.body.len()
    }
}

/// A place in the store, as long as the response is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    index: usize,
    number: u64,
}

#[derive(Debug)]
struct Slot {
    stored: Stored,
    hash: u64,
    number: u64,
    size: usize,
    /// Used before and after this one; `usize::MAX` at the ends.
    older: usize,
    newer: usize,
}

const NONE: usize = usize::MAX;

/// All stored responses.
#[derive(Debug)]
pub(crate) struct Store {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    by_hash: ByHash<Vec<usize>>,
    oldest: usize,
    newest: usize,
    bytes: usize,
    limit: usize,
    numbers: u64,
}

impl Store {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_hash: ByHash::default(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
            limit,
            numbers: 0,
        }
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Responses stored.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The response of this key whose variant `is_for` says it is; the latest of several.
    pub(crate) fn find(
        &mut self,
        hash: u64,
        key: &[u8],
        is_for: impl Fn(&Stored) -> bool,
    ) -> (Option<Place>, bool) {
        let (mut best, mut other) = (None, false);
        for index in self.by_hash.get(&hash).into_iter().flatten() {
            let Some(slot) = &self.slots[*index] else { continue };
            if slot.stored.key != key {
                continue;
            }
            if !is_for(&slot.stored) {
                other = true;
                continue;
            }
            let received = slot.stored.freshness.received;
            if best.is_none_or(|(_, latest)| received >= latest) {
                best = Some((Place { index: *index, number: slot.number }, received));
            }
        }
        let best = best.map(|(place, _)| place);
        if let Some(place) = best {
            self.unlink(place.index);
            self.link(place.index);
        }
        (best, other)
    }

    /// A response, if it is still there.
    pub(crate) fn get(&self, place: Place) -> Option<&Stored> {
        let slot = self.slots.get(place.index)?.as_ref()?;
        (slot.number == place.number).then_some(&slot.stored)
    }

    /// The same, to be changed; call [`Store::changed`] if its size may be another.
    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Stored> {
        let slot = self.slots.get_mut(place.index)?.as_mut()?;
        (slot.number == place.number).then_some(&mut slot.stored)
    }

    /// Counts anew.
    pub(crate) fn changed(&mut self, place: Place) {
        if let Some(slot) = self.slots.get_mut(place.index).and_then(Option::as_mut) {
            let size = slot.stored.size();
            self.bytes = self.bytes - slot.size + size;
            slot.size = size;
        }
        self.make_room(0);
    }

    /// Stores a response in place of the one for the same requests. False when it is too large.
    pub(crate) fn insert(&mut self, hash: u64, stored: Stored) -> bool {
        let size = stored.size();
        if size > self.limit {
            return false;
        }
        let same: Vec<usize> = self.by_hash.get(&hash).cloned().unwrap_or_default();
        let of_key = |index: &usize| {
            self.slots[*index].as_ref().is_some_and(|slot| slot.stored.key == stored.key)
        };
        let variants: Vec<usize> = same.into_iter().filter(of_key).collect();
        let equal = variants.iter().copied().find(|index| {
            self.slots[*index].as_ref().is_some_and(|slot| slot.stored.vary == stored.vary)
        });
        if let Some(index) =
            equal.or_else(|| variants.first().copied().filter(|_| variants.len() >= VARIANTS_MAX))
        {
            self.remove_at(index);
        }
        self.make_room(size);
        self.numbers += 1;
        let number = self.numbers;
        let slot = Slot { stored, hash, number, size, older: NONE, newer: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = Some(slot);
                index
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        self.by_hash.entry(hash).or_default().push(index);
        self.bytes += size;
        self.link(index);
        true
    }

    /// Removes a response, if it is still there.
    pub(crate) fn remove(&mut self, place: Place) {
        if self.get(place).is_some() {
            self.remove_at(place.index);
        }
    }

    /// Removes all variants of a key: how many.
    pub(crate) fn invalidate(&mut self, hash: u64, key: &[u8]) -> usize {
        let all: Vec<usize> = self.by_hash.get(&hash).cloned().unwrap_or_default();
        let mut removed = 0;
        for index in all {
            if self.slots[index].as_ref().is_some_and(|slot| slot.stored.key == key) {
                self.remove_at(index);
                removed += 1;
            }
        }
        removed
    }

    fn make_room(&mut self, bytes: usize) {
        while self.bytes + bytes > self.limit && self.oldest != NONE {
            self.remove_at(self.oldest);
        }
    }

    fn remove_at(&mut self, index: usize) {
        self.unlink(index);
        let Some(slot) = self.slots[index].take() else { return };
        self.bytes -= slot.size;
        self.free.push(index);
        if let Some(all) = self.by_hash.get_mut(&slot.hash) {
            all.retain(|other| *other != index);
            if all.is_empty() {
                self.by_hash.remove(&slot.hash);
            }
        }
    }

    fn neighbour(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index).and_then(Option::as_mut)
    }

    fn unlink(&mut self, index: usize) {
        let Some((older, newer)) = self.neighbour(index).map(|slot| (slot.older, slot.newer))
        else {
            return;
        };
        match self.neighbour(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.neighbour(newer) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
    }

    /// As the one that was used last.
    fn link(&mut self, index: usize) {
        let newest = self.newest;
        if let Some(slot) = self.neighbour(index) {
            (slot.older, slot.newer) = (newest, NONE);
        }
        match self.neighbour(newest) {
            Some(slot) => slot.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::Control;

    fn stored(key: u8, variant: u8, bytes: usize) -> Stored {
        Stored {
            key: vec![key],
            vary: vec![("accept".into(), Some(vec![variant]))],
            status: 200,
            fields: vec![(b"n".to_vec(), vec![variant])],
            body: Rc::new(vec![0; bytes]),
            freshness: Freshness {
                control: Control::default(),
                lifetime: 0,
                initial_age: 0,
                received: 0,
            },
            asking_since: 0,
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_was_used_last_within_its_limit(
            steps in prop::collection::vec((0u8..4, 0u8..6, 0u8..3, 0usize..3000), 1..200),
        ) {
            let mut store = Store::new(10_000);
            // What was used, the last one last.
            let mut model: Vec<(u8, u8, usize)> = Vec::new();
            for (kind, key, variant, bytes) in steps {
                // Keys share hashes.
                let hash = u64::from(key % 3);
                let wanted = vec![("accept".into(), Some(vec![variant]))];
                match kind {
                    0 | 1 => {
                        prop_assert!(store.insert(hash, stored(key, variant, bytes)));
                        model.retain(|(k, v, _)| (*k, *v) != (key, variant));
                        model.push((key, variant, bytes));
                        let size = |(k, v, bytes): &(u8, u8, usize)| stored(*k, *v, *bytes).size();
                        while model.iter().map(size).sum::<usize>() > 10_000 {
                            model.remove(0);
                        }
                    }
                    2 => {
                        let (place, _) = store.find(hash, &[key], |s| s.vary == wanted);
                        let known = model.iter().position(|(k, v, _)| (*k, *v) == (key, variant));
                        prop_assert_eq!(place.is_some(), known.is_some());
                        if let (Some(place), Some(known)) = (place, known) {
                            let entry = model.remove(known);
                            prop_assert_eq!(store.get(place).unwrap().body.len(), entry.2);
                            model.push(entry);
                        }
                    }
                    _ => {
                        let before = model.len();
                        model.retain(|(k, ..)| *k != key);
                        prop_assert_eq!(store.invalidate(hash, &[key]), before - model.len());
                    }
                }
                prop_assert_eq!(store.len(), model.len());
                prop_assert!(store.bytes() <= 10_000);
            }
        }
    }

    #[test]
    fn a_place_is_of_one_response_only() {
        let mut store = Store::new(10_000);
        store.insert(1, stored(1, 1, 10));
        let (place, _) = store.find(1, &[1], |_| true);
        store.insert(1, stored(1, 1, 20));
        let place = place.unwrap();
        assert!(store.get(place).is_none());
        store.remove(place);
        assert_eq!(store.len(), 1, "another one is at its place");
        assert!(!store.insert(1, stored(1, 1, 10_000)), "too large");
    }
}
