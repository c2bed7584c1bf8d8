//! Which packets functions own: those they hold, and the buffers they have allocated.
//!
//! Takes memory for what is owned, not for what could be: a pool has thousands of buffers, and most
//! functions own none. No packet costs more because many are owned: only handing them over goes
//! through all.

use std::collections::{BTreeMap, VecDeque};

use weir_pool::{BufferIndex, Packet};

/// A buffer that a function holds or has allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owned {
    pub(crate) function: usize,
    /// Which of the chain's instances: see `Context::instance`.
    pub(crate) instance: u64,
    /// It was allocated, it did not come in by a port.
    pub(crate) made: bool,
    /// An instance before this one held or allocated it: this one may know nothing of it.
    pub(crate) inherited: bool,
    /// As in `Entry::moves`.
    pub(crate) moves: u8,
    pub(crate) packet: Packet,
}

impl Owned {
    fn is_inherited_by(&self, function: usize, instance: u64) -> bool {
        self.inherited && self.function == function && self.instance == instance
    }
}

/// All that functions of a chain own.
#[derive(Debug)]
pub(crate) struct Ownership {
    all: Vec<Owned>,
    /// By buffer: its place in `all` and one more; 0 when nobody owns it. Empty until somebody owns
    /// something.
    places: Vec<u32>,
    rooms: usize,
    by_function: Vec<usize>,
    /// By function and instance: buffers that it was handed, the oldest first; also some that it
    /// does not own any more.
    inherited: BTreeMap<(usize, u64), VecDeque<BufferIndex>>,
}

impl Ownership {
    /// Nobody owns anything yet.
    pub(crate) fn new(rooms: usize, functions: usize) -> Self {
        Self {
            all: Vec::new(),
            places: Vec::new(),
            rooms,
            by_function: vec![0; functions],
            inherited: BTreeMap::new(),
        }
    }

    /// Number of functions of the chain; a swap may change it.
    pub(crate) fn set_functions(&mut self, functions: usize) {
        self.by_function.resize(functions, 0);
    }

    /// How many buffers a function owns.
    pub(crate) fn count(&self, function: usize) -> usize {
        self.by_function[function]
    }

    /// A function owns a buffer from now on.
    pub(crate) fn insert(&mut self, owned: Owned) {
        if self.places.is_empty() {
            self.places = vec![0; self.rooms];
        }
        self.by_function[owned.function] += 1;
        self.all.push(owned);
        self.places[owned.packet.buffer.get() as usize] = self.all.len() as u32;
    }

    /// Who owns a buffer.
    pub(crate) fn get(&self, buffer: BufferIndex) -> Option<&Owned> {
        let place = self.places.get(buffer.get() as usize)?.checked_sub(1)?;
        self.all.get(place as usize)
    }

    /// Nobody owns the buffer any more.
    pub(crate) fn remove(&mut self, buffer: BufferIndex) {
        let Some(place) = self.places.get_mut(buffer.get() as usize) else { return };
        let Some(at) = std::mem::take(place).checked_sub(1) else { return };
        let gone = self.all.swap_remove(at as usize);
        self.by_function[gone.function] -= 1;
        if let Some(moved) = self.all.get(at as usize) {
            self.places[moved.packet.buffer.get() as usize] = at + 1;
        }
    }

    /// All that a function of one instance owns is another instance's; `inherited`: which has not
    /// taken it itself.
    pub(crate) fn hand_over(&mut self, function: usize, from: u64, to: u64, inherited: bool) {
        for owned in &mut self.all {
            if owned.function == function && owned.instance == from {
                owned.instance = to;
                owned.inherited |= inherited;
            }
        }
        self.inherited.remove(&(function, from));
        let its = self.all.iter().filter(|owned| owned.is_inherited_by(function, to));
        let mut its: Vec<&Owned> = its.collect();
        its.sort_by_key(|owned| owned.packet.time);
        let its: VecDeque<BufferIndex> = its.iter().map(|owned| owned.packet.buffer).collect();
        if !its.is_empty() {
            self.inherited.insert((function, to), its);
        }
    }

    /// How many buffers a function was handed by an instance before this one, and still owns.
    pub(crate) fn inherited(&self, function: usize, instance: u64) -> usize {
        self.all.iter().filter(|owned| owned.is_inherited_by(function, instance)).count()
    }

    /// Takes the oldest of the buffers that a function was handed by an instance before this one.
    pub(crate) fn take_inherited(&mut self, function: usize, instance: u64) -> Option<Owned> {
        let mut inherited = self.inherited.remove(&(function, instance))?;
        while let Some(buffer) = inherited.pop_front() {
            if let Some(&oldest) = self.get(buffer)
                && oldest.is_inherited_by(function, instance)
            {
                self.inherited.insert((function, instance), inherited);
                self.remove(buffer);
                return Some(oldest);
            }
        }
        None
    }

    /// Takes all that a function of one instance owns.
    pub(crate) fn take(&mut self, function: usize, instance: u64) -> Vec<Owned> {
        if self.by_function[function] == 0 {
            return Vec::new();
        }
        let its = |owned: &Owned| owned.function == function && owned.instance == instance;
        let taken: Vec<Owned> = self.all.iter().filter(|owned| its(owned)).copied().collect();
        for owned in &taken {
            self.remove(owned.packet.buffer);
        }
        self.inherited.remove(&(function, instance));
        taken
    }
}

#[cfg(test)]
mod tests {
    use weir_pool::{HugePages, Pool, PoolConfig};

    use super::*;

    #[test]
    fn the_oldest_of_what_was_inherited_goes_first() {
        let config = PoolConfig { rooms: 8, room_bytes: 2048, huge: HugePages::Never };
        let mut pool = Pool::new("test", &config).expect("memory");
        let mut ownership = Ownership::new(8, 2);
        for (function, time) in [(0, 30), (0, 10), (0, 20), (1, 5)] {
            let mut one = owned(&mut pool, function, 1);
            one.packet.time = time;
            ownership.insert(one);
        }
        let second = *ownership.all.iter().find(|owned| owned.packet.time == 20).expect("it is");
        ownership.hand_over(0, 1, 2, true);
        ownership.hand_over(1, 1, 2, false);
        let mut own = owned(&mut pool, 0, 2);
        own.packet.time = 1;
        ownership.insert(own);
        assert_eq!((ownership.inherited(0, 2), ownership.inherited(0, 1)), (3, 0));
        let taken = |ownership: &mut Ownership, instance| {
            ownership.take_inherited(0, instance).map(|owned| owned.packet.time)
        };
        assert_eq!(taken(&mut ownership, 2), Some(10));
        // The next one does not know what this one took itself, either.
        ownership.hand_over(0, 2, 3, true);
        assert_eq!((taken(&mut ownership, 2), taken(&mut ownership, 3)), (None, Some(1)));
        ownership.remove(second.packet.buffer);
        assert_eq!((taken(&mut ownership, 3), taken(&mut ownership, 3)), (Some(30), None));
        assert!(ownership.take_inherited(1, 2).is_none(), "it took them itself");
        assert_eq!((ownership.count(0), ownership.count(1)), (0, 1));
    }

    fn owned(pool: &mut Pool, function: usize, instance: u64) -> Owned {
        let buffer = pool.take().expect("a buffer is free");
        let descriptor = pool.place(buffer, &[]).expect("nothing fits");
        let metadata = weir_layout::Metadata::default();
        let packet = Packet { descriptor, metadata, time: 0, buffer, cut: 0 };
        Owned { function, instance, made: false, inherited: false, moves: 0, packet }
    }

    #[test]
    fn what_is_owned_is_found_until_it_is_removed_or_taken() {
        let config = PoolConfig { rooms: 8, room_bytes: 2048, huge: HugePages::Never };
        let mut pool = Pool::new("test", &config).expect("memory");
        let mut ownership = Ownership::new(8, 2);
        let some: Vec<Owned> = [(0, 1), (1, 1), (0, 1), (0, 2)]
            .map(|(function, instance)| owned(&mut pool, function, instance))
            .into();
        let buffers: Vec<BufferIndex> = some.iter().map(|owned| owned.packet.buffer).collect();
        assert!(ownership.get(buffers[0]).is_none());
        some.into_iter().for_each(|owned| ownership.insert(owned));
        assert_eq!((ownership.count(0), ownership.count(1)), (3, 1));
        ownership.remove(buffers[0]);
        ownership.remove(buffers[0]);
        assert!(ownership.get(buffers[0]).is_none());
        for (buffer, function) in buffers[1..].iter().zip([1, 0, 0]) {
            let found = ownership.get(*buffer).expect("it is owned");
            assert_eq!((found.function, found.packet.buffer), (function, *buffer));
        }
        assert_eq!(ownership.take(0, 1).len(), 1);
        ownership.hand_over(0, 2, 3, false);
        assert!(ownership.take(0, 2).is_empty());
        assert_eq!(ownership.take(0, 3)[0].packet.buffer, buffers[3]);
        assert_eq!((ownership.count(0), ownership.count(1)), (0, 1));
    }
}
