//! The maps of an XDP program: what the host writes into them, and in which order.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, XskMap};
use rustix::thread::{MembarrierCommand, membarrier};
use weir_port::Moved;
use weir_steering::Key;
use weir_xdp_layout::{
    COUNTS, COUNTS_WORDS, Counts, Fields, PLACED, PLACES, Placing, QUEUES, RULES, RULES_WORDS,
    Rules, SOCKETS, STEERING, Steering, TABLE, TO_KERNEL, TO_SOCKET, TUPLES, TUPLES_MAX, Tuple,
    cell, decision, placement, tuples_at,
};

use crate::steering::{Entry, Table};

/// All of them. Each group has a lock of its own: who places a flow waits for nobody who writes a
/// table. The last one is held for some system calls at most.
pub(crate) struct Maps {
    queues: Mutex<Queues>,
    tables: Mutex<Tables>,
    flows: Mutex<Flows>,
}

struct Queues {
    sockets: XskMap<MapData>,
    rules: Array<MapData, [u16; RULES_WORDS]>,
    counts: PerCpuArray<MapData, [u64; COUNTS_WORDS]>,
}

/// What counts for each queue, and the flows that functions have moved.
struct Flows {
    steering: Array<MapData, [u64; 2]>,
    placed: HashMap<MapData, Fields, u64>,
    /// By place.
    now: Box<[Now]>,
    /// The queue of which those have the rules and the table that no port has; none: the kernel has
    /// their packets.
    stand_in: Option<u32>,
}

/// What counts for a queue, or for those behind the last one that can have a port.
#[derive(Clone, Copy, Default)]
struct Now {
    steering: Steering,
    placing: Placing,
    /// A port has the queue.
    open: bool,
    /// Its worker has placed flows that are not void.
    placed: bool,
}

impl Now {
    /// By itself: no other queue stands in.
    fn is_steered(&self) -> bool {
        self.open || self.steering.tuples > 0
    }
}

struct Tables {
    tuples: Array<MapData, [Tuple; TUPLES_MAX]>,
    table: HashMap<MapData, [u64; 8], weir_xdp_layout::Entry>,
    /// The last table of all queues.
    generation: u32,
    /// Tables that are in force, or about to be.
    written: Vec<Written>,
    /// Tables that are not any more, and whose entries are still there.
    old: Vec<Written>,
}

/// A table in the map.
pub(crate) struct Written {
    queue: u32,
    pub(crate) generation: u32,
    pub(crate) table: Arc<Table>,
}

impl Maps {
    /// Takes them out of a loaded object. Queues without a port are steered as `stand_in`.
    pub(crate) fn of(ebpf: &mut Ebpf, stand_in: Option<u32>) -> Result<Self, String> {
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"));
        let wrong = |error| format!("a map of the object is not as this host has it: {error}");
        let queues = Queues {
            sockets: XskMap::try_from(take(SOCKETS)?).map_err(wrong)?,
            rules: Array::try_from(take(RULES)?).map_err(wrong)?,
            counts: PerCpuArray::try_from(take(COUNTS)?).map_err(wrong)?,
        };
        let tables = Tables {
            tuples: Array::try_from(take(TUPLES)?).map_err(wrong)?,
            table: HashMap::try_from(take(TABLE)?).map_err(wrong)?,
            generation: 0,
            written: Vec::new(),
            old: Vec::new(),
        };
        let flows = Flows {
            steering: Array::try_from(take(STEERING)?).map_err(wrong)?,
            placed: HashMap::try_from(take(PLACED)?).map_err(wrong)?,
            now: vec![Now::default(); PLACES as usize].into(),
            stand_in,
        };
        Ok(Self {
            queues: Mutex::new(queues),
            tables: Mutex::new(tables),
            flows: Mutex::new(flows),
        })
    }

    /// Says what a queue claims.
    pub(crate) fn set_rules(&self, queue: u32, rules: &Rules) -> io::Result<()> {
        lock(&self.queues).rules.set(queue, rules.words(), 0).map_err(io::Error::other)
    }

    /// Sends a queue's packets to this socket, as the rules say. They are in force before the first
    /// packet gets there.
    pub(crate) fn claim(
        &self,
        queue: u32,
        rules: &Rules,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.set_rules(queue, rules)?;
        lock(&self.queues).sockets.set(queue, socket.as_raw_fd(), 0).map_err(io::Error::other)
    }

    /// What became since the program was loaded, on all CPUs, of a queue's packets, or of those
    /// behind the last one that can have a port.
    pub(crate) fn counts(&self, place: u32) -> Counts {
        let mut sum = Counts::default();
        if let Ok(values) = lock(&self.queues).counts.get(&place, 0) {
            for &[redirected, unclaimed, no_socket, steered, dropped] in values.iter() {
                sum += Counts { redirected, unclaimed, no_socket, steered, dropped };
            }
        }
        sum
    }

    /// Replaces a queue's table. Everything of the new one is there before a single word puts it in
    /// force. What was of the old one is still there: see [`Self::take_old`]. What queues that were
    /// closed have left goes first: there may be no room beside it.
    pub(crate) fn steer(&self, queue: u32, table: &Arc<Table>) -> Result<(), String> {
        let mut tables = lock(&self.tables);
        let now = lock(&self.flows).now(queue).map(|now| now.steering);
        let before = now.map_err(|error| error.to_string())?;
        let written = match table.entries.is_empty() {
            true => Ok(Steering::default()),
            false => {
                tables.clear_old();
                tables.write(queue, before, table)
            }
        };
        // Half a table is none: everything comes to the socket.
        let after = written.as_ref().copied().unwrap_or_default();
        self.exchange(&mut tables, queue, after).map_err(|error| {
            format!("the kernel does not put the steering rules in force: {error}")
        })?;
        written.map(|_| ()).map_err(|e| format!("the kernel does not take the steering rules: {e}"))
    }

    /// For each rule of a queue's table, how many flows it has decided; nothing if the table is not
    /// in force. Rules that lead to the socket are counted there.
    pub(crate) fn flows(&self, queue: u32, table: &Arc<Table>) -> BTreeMap<u32, u64> {
        let tables = lock(&self.tables);
        let here =
            |written: &&Written| written.queue == queue && Arc::ptr_eq(&written.table, table);
        let mut flows = BTreeMap::new();
        let Some(Written { generation, table, .. }) = tables.written.iter().find(here) else {
            return flows;
        };
        for (fields, tuple, number, action) in &table.entries {
            if *action == TO_SOCKET {
                continue;
            }
            if let Ok([_, found]) = tables.table.get(&cell(*fields, *generation, *tuple), 0) {
                *flows.entry(*number).or_default() += found;
            }
        }
        flows
    }

    /// Tables that are not in force any more and whose entries nobody takes out yet. They may go
    /// behind [`quiesce`].
    pub(crate) fn take_old(&self) -> Vec<Written> {
        std::mem::take(&mut lock(&self.tables).old)
    }

    /// Takes out entries of a table that no packet looks at any more.
    pub(crate) fn clear(&self, generation: u32, entries: &[Entry]) {
        lock(&self.tables).clear(generation, entries);
    }

    /// Leaves a queue to the kernel. What its table had goes with the next table.
    pub(crate) fn forget(&self, queue: u32) -> io::Result<()> {
        self.set_rules(queue, &Rules::default())?;
        self.exchange(&mut lock(&self.tables), queue, Steering::default())?;
        self.close(queue)
    }

    /// No port has this queue any more. What steers it stays in force, and what functions have
    /// moved is void.
    pub(crate) fn close(&self, queue: u32) -> io::Result<()> {
        lock(&self.flows).change(queue, |now| now.open = false)
    }

    /// A port has this queue, and this is the first of that port's.
    pub(crate) fn open(&self, queue: u32, first: u32) -> io::Result<()> {
        lock(&self.flows).change(queue, |now| {
            now.placing.first = first as u8;
            now.open = true;
        })
    }

    /// Has the program send a flow on as a function did, at all queues of the port. Never waits:
    /// none, when somebody else places one.
    pub(crate) fn place(&self, queue: u32, flow: &Key, to: Moved) -> Option<io::Result<()>> {
        let mut flows = match self.flows.try_lock() {
            Ok(flows) => flows,
            Err(TryLockError::Poisoned(flows)) => flows.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(flows.place(queue, flow, to))
    }

    /// What this queue's worker has placed does not count any more.
    pub(crate) fn forget_flows(&self, queue: u32) -> io::Result<()> {
        lock(&self.flows).change(queue, |_| ())
    }

    fn exchange(&self, tables: &mut Tables, queue: u32, after: Steering) -> io::Result<()> {
        lock(&self.flows).exchange(queue, after)?;
        let dead = |table: &Written| table.queue == queue && table.generation != after.generation;
        tables.old.extend(tables.written.extract_if(.., |table| dead(table)));
        Ok(())
    }
}

impl Flows {
    fn now(&mut self, queue: u32) -> io::Result<&mut Now> {
        self.now.get_mut(queue as usize).ok_or_else(|| io::Error::other("there is no such queue"))
    }

    fn write(&mut self, queue: u32) -> io::Result<()> {
        let Now { placing, .. } = *self.now(queue)?;
        let words = [self.in_force(queue).word(), placing.word()];
        self.steering.set(queue, words, 0).map_err(io::Error::other)
    }

    /// What steers a queue: its own table; or that of the one that stands in, if no port has it and
    /// none has left it a table.
    fn in_force(&self, queue: u32) -> Steering {
        let own = self.now[queue as usize];
        let Some(other) = self.stand_in.filter(|_| !own.is_steered()) else { return own.steering };
        match self.now[other as usize].steering {
            none if none.tuples == 0 => none,
            its => Steering { of: Some(other as u8), ..its },
        }
    }

    fn exchange(&mut self, queue: u32, after: Steering) -> io::Result<()> {
        let before = std::mem::replace(&mut self.now(queue)?.steering, after);
        let written = self.write(queue);
        if written.is_err() {
            self.now(queue)?.steering = before;
            return written;
        }
        if self.stand_in == Some(queue) {
            for other in 0..PLACES {
                if !self.now[other as usize].is_steered() {
                    self.write(other)?;
                }
            }
        }
        Ok(())
    }

    /// Changes whose a queue is, if at all; what its worker has placed is void.
    fn change(&mut self, queue: u32, change: impl FnOnce(&mut Now)) -> io::Result<()> {
        let now = self.now(queue)?;
        change(now);
        now.placed = false;
        now.placing.any &= now.open;
        now.placing.number = now.placing.number.wrapping_add(1);
        let first = now.placing.first;
        self.write(queue)?;
        self.look(first)
    }

    /// Has the program look for moved flows at all queues of a port, if there may be any, or at
    /// none.
    fn look(&mut self, first: u8) -> io::Result<()> {
        let mine = |now: &Now| now.open && now.placing.first == first;
        let any = self.now.iter().any(|now| mine(now) && now.placed);
        for queue in 0..QUEUES {
            let now = self.now(queue)?;
            if mine(now) && now.placing.any != any {
                now.placing.any = any;
                self.write(queue)?;
            }
        }
        Ok(())
    }

    fn place(&mut self, queue: u32, flow: &Key, to: Moved) -> io::Result<()> {
        let action = match to {
            Moved::ToChain => TO_SOCKET,
            Moved::ToKernel => TO_KERNEL,
        };
        let Placing { number, first, .. } = self.now(queue)?.placing;
        let fields = Key { port: u16::from(first), ..flow.plain() }.words();
        let placement = placement(&fields, number, queue, action);
        self.placed.insert(fields, placement, 0).map_err(io::Error::other)?;
        if !std::mem::replace(&mut self.now(queue)?.placed, true) {
            self.look(first)?;
        }
        Ok(())
    }
}

impl Tables {
    fn clear(&mut self, generation: u32, entries: &[Entry]) {
        for (fields, tuple, ..) in entries {
            // One that is not there was not written.
            let _ = self.table.remove(&cell(*fields, generation, *tuple));
        }
    }

    /// Takes out what tables have left that are not in force any more.
    fn clear_old(&mut self) {
        let old = std::mem::take(&mut self.old);
        if !old.is_empty() {
            quiesce();
        }
        for Written { generation, table, .. } in &old {
            self.clear(*generation, &table.entries);
        }
    }

    fn next(&mut self) -> u32 {
        self.generation += 1;
        self.generation
    }

    /// Writes a table beside the one that is in force.
    fn write(&mut self, queue: u32, before: Steering, table: &Arc<Table>) -> io::Result<Steering> {
        let list = if before.tuples > 0 { 1 - before.list } else { before.list };
        let generation = self.next();
        let mut tuples = [[0; 8]; TUPLES_MAX];
        for (words, (mask, first)) in tuples.iter_mut().zip(&table.tuples) {
            words[..7].copy_from_slice(mask);
            words[7] = u64::from(*first);
        }
        self.tuples.set(tuples_at(queue, list), tuples, 0).map_err(io::Error::other)?;
        self.written.push(Written { queue, generation, table: Arc::clone(table) });
        for (fields, tuple, number, action) in &table.entries {
            let key = cell(*fields, generation, *tuple);
            self.table.insert(key, [decision(*number, *action), 0], 0).map_err(io::Error::other)?;
        }
        Ok(Steering { generation, tuples: table.tuples.len() as u8, list, of: None })
    }
}

/// Waits until every packet that looked at a table before has been decided: the kernel runs XDP
/// programs in RCU sections, and membarrier(2) with this command waits for all of them.
pub(crate) fn quiesce() {
    if membarrier(MembarrierCommand::Global).is_err() {
        // A kernel without it, or with cores that it leaves alone.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
