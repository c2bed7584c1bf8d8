//! Steering rules for the XDP program: made into tuples and entries, and kept for the program that
//! is to have them.
//!
//! Knows rules and words, no maps: those are [`crate::program`]'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fmt, mem};

use weir_port::{OffloadedRules, Place, PortError, Steer};
use weir_steering::{Rule, Target};
use weir_xdp_layout::{Fields, Rules, TABLE_MAX, TO_KERNEL, TO_NOWHERE, TO_SOCKET, TUPLES_MAX};

use crate::config::XdpConfig;
use crate::error;
use crate::interface::Interface;
use crate::maps::Maps;
use crate::program::{self, Claim, Key, Program};

/// Entries of one table: another may replace it while it is in force.
pub(crate) const ENTRIES_MAX: usize = TABLE_MAX as usize / 2;

/// An entry of a table: the masked fields, the tuple that they belong to, the rule's number, its
/// action.
pub(crate) type Entry = (Fields, u32, u32, u16);

/// Rules, ready for the program's maps.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// For each rule that was given: its number here, and where it leads; none if it is for other
    /// ports.
    given: Vec<Option<(u32, Target)>>,
    /// Masks, and the number of their first rule, in the order of those.
    pub(crate) tuples: Vec<(Fields, u32)>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) taken: OffloadedRules,
}

impl Table {
    /// Takes rules for packets of this port up to the first that does not fit: what comes in front
    /// of it is decided by the program as all rules would decide it, the rest behind the socket.
    pub(crate) fn new(rules: &[Rule], port: u16) -> Self {
        let mine: Vec<Rule> = rules
            .iter()
            .filter(|rule| rule.port.is_none_or(|of| of == port))
            .map(|rule| Rule { port: None, ..*rule })
            .collect();
        // Behind the last rule that keeps packets from the socket there is nothing to look for.
        let last = mine.iter().rposition(|rule| !matches!(rule.target, Target::Chain(_)));
        let mut table = Self::default();
        let mut known = HashMap::<Fields, u32>::new();
        let mut seen = HashMap::<(Fields, u32), ()>::new();
        for (number, rule) in mine[..last.map_or(0, |last| last + 1)].iter().enumerate() {
            if !table.add(rule, number as u32, &mut known, &mut seen) {
                table.cut(number as u32);
                break;
            }
            table.taken.rules = number + 1;
        }
        if last.is_none_or(|last| table.taken.rules > last) {
            table.taken.rules = mine.len();
        }
        table.taken.of = mine.len();
        let mut numbers = 0..;
        let number = |rule: &Rule| {
            let mine = rule.port.is_none_or(|of| of == port);
            mine.then(|| (numbers.next().unwrap_or(u32::MAX), rule.target))
        };
        table.given = rules.iter().map(number).collect();
        table
    }

    /// Adds a rule; false: it does not fit.
    fn add(
        &mut self,
        rule: &Rule,
        number: u32,
        known: &mut HashMap<Fields, u32>,
        seen: &mut HashMap<(Fields, u32), ()>,
    ) -> bool {
        let action = match rule.target {
            Target::Chain(_) => TO_SOCKET,
            Target::Kernel => TO_KERNEL,
            Target::Drop => TO_NOWHERE,
        };
        for part in rule.masked() {
            let mask = part.mask.words();
            let tuple = match known.get(&mask) {
                Some(tuple) => *tuple,
                None if self.tuples.len() == TUPLES_MAX => return false,
                None => {
                    let tuple = self.tuples.len() as u32;
                    self.tuples.push((mask, number));
                    known.insert(mask, tuple);
                    tuple
                }
            };
            // An earlier rule for the same packets decides.
            if seen.insert((part.bits.words(), tuple), ()).is_none() {
                self.entries.push((part.bits.words(), tuple, number, action));
            }
        }
        self.entries.len() <= ENTRIES_MAX
    }

    /// Whether some of the rules drop packets.
    fn drops(&self) -> bool {
        self.entries.iter().any(|entry| entry.3 == TO_NOWHERE)
    }

    /// Takes out what belongs to this rule, the last, and to trailing rules that only lead to the
    /// socket.
    fn cut(&mut self, number: u32) {
        self.entries.retain(|entry| entry.2 < number);
        self.tuples.retain(|tuple| tuple.1 < number);
    }
}

/// All that there are in this process: the first port of an interface brings the rules of its other
/// queues along.
static ALL: Mutex<Vec<Weak<Steering>>> = Mutex::new(Vec::new());

/// A port's rules, and the program that has them while the port is attached, or longer: see
/// [`Steer::outlive_port`].
pub(crate) struct Steering {
    name: String,
    interface: Key,
    config: XdpConfig,
    /// What the queue claims.
    claims: Rules,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None before the first rules.
    table: Option<Arc<Table>>,
    program: Weak<Program>,
    /// No program has got the table yet.
    waits: bool,
    /// Why the program does not have them.
    refused: Option<String>,
    /// What they drop is to go on to be dropped when the port is closed.
    stays: bool,
    /// There while that is so: the port is closed.
    kept: Option<Arc<Program>>,
}

impl State {
    /// The program has nothing of this queue any more.
    fn forget(&mut self, queue: u32) {
        if let Some(program) = mem::take(&mut self.program).upgrade() {
            // Without it the queue's packets go on to be steered until the program goes.
            let _ = program.maps().forget(queue);
        }
        self.kept = None;
    }

    /// Nothing is kept for a queue without a port any more.
    fn let_go(&mut self, queue: u32) {
        if self.kept.is_some() {
            self.forget(queue);
        }
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("queue", &self.config.queue).finish_non_exhaustive()
    }
}

impl Steering {
    pub(crate) fn new(
        name: &str,
        interface: &Interface,
        config: XdpConfig,
        claims: Rules,
    ) -> Arc<Self> {
        let (name, interface, state) = (name.to_owned(), program::key(interface), Mutex::default());
        let steering = Self { name, interface, config, claims, state };
        let steering = Arc::new(steering);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|steering| steering.strong_count() > 0);
        all.push(Arc::downgrade(&steering));
        steering
    }

    /// Gives a program that is not attached yet the rules of the interface's other queues, whose
    /// ports come behind this one: until then the kernel would have what they drop.
    fn bring_others(&self, maps: &Maps) {
        let others = all().into_iter();
        let others = others.filter(|other| {
            other.interface == self.interface && other.config.queue != self.config.queue
        });
        for other in others {
            let mut state = other.state();
            if let Some(table) = state.table.clone().filter(|_| state.waits) {
                let given = other.claim(maps, &table);
                // What is refused here its own port tells.
                state.waits = given.and_then(|()| maps.steer(other.config.queue, &table)).is_err();
            }
        }
    }

    /// Before the queue gets a table: of a queue that claims nothing nothing is decided, and a port
    /// that nobody reads has not claimed yet.
    fn claim(&self, maps: &Maps, table: &Table) -> Result<(), String> {
        if table.entries.is_empty() {
            return Ok(());
        }
        maps.set_rules(self.config.queue, &self.claims).map_err(|error| error.to_string())
    }

    fn give(&self, program: &Program, table: &Arc<Table>) -> Result<(), String> {
        self.claim(program.maps(), table)?;
        program.steer(self.config.queue, table)
    }

    /// The rules that a program is to have before it is attached, if any.
    fn table(&self) -> Arc<Table> {
        self.state().table.clone().unwrap_or_default()
    }

    /// Gets the port its queue of the interface's program, which has the port's rules then.
    pub(crate) fn attach(&self, interface: &Interface) -> Result<Claim, String> {
        let name = &self.config.interface;
        let (table, mut not_taken) = (self.table(), None);
        let prepare = |maps: &Maps| {
            // What is steered is decided from the first packet on, also before anybody reads the
            // port; and nothing else any more.
            let claimed = self.claim(maps, &table);
            not_taken = claimed.and_then(|()| maps.steer(self.config.queue, &table)).err();
            self.bring_others(maps);
        };
        self.let_go_of_gone();
        let claim = Program::on(interface, &self.config, prepare)
            .map_err(|refused| error::of_program(&refused, name, interface))?;
        let opened = claim.program().maps().open(self.config.queue, self.config.first_queue());
        opened.map_err(|error| {
            format!("the XDP program of {name} does not take the queue's number: {error}")
        })?;
        self.opened(claim.program(), &table, not_taken);
        Ok(claim)
    }

    /// An interface of this name that is there no more has the program yet that earlier ports had
    /// on it: it goes, and with it what is pinned under that name.
    fn let_go_of_gone(&self) {
        for other in all() {
            let same = other.interface.0 == self.interface.0
                && other.config.interface == self.config.interface;
            if same && other.interface != self.interface {
                other.state().let_go(other.config.queue);
            }
        }
    }

    /// The port's rules have taken the place of what an earlier one has left of its own.
    fn succeed(&self) {
        for other in all() {
            let same = other.interface == self.interface && other.config.queue == self.config.queue;
            if same && !std::ptr::eq(&raw const *other, self) {
                let mut state = other.state();
                if state.kept.take().is_some() {
                    state.program = Weak::new();
                }
            }
        }
    }

    /// The port has this program now, which has got this table, or refused it.
    fn opened(&self, program: &Arc<Program>, given: &Arc<Table>, refused: Option<String>) {
        self.succeed();
        let mut state = self.state();
        state.program = Arc::downgrade(program);
        (state.waits, state.kept) = (false, None);
        state.refused = refused;
        // Another came meanwhile.
        if let Some(table) = state.table.clone().filter(|table| !Arc::ptr_eq(given, table)) {
            state.refused = self.give(program, &table).err();
        }
    }

    /// The port lets go of the program. `is_there`: its interface is.
    pub(crate) fn closing(&self, is_there: bool) {
        let mut state = self.state();
        state.waits = false;
        let drops = state.table.as_ref().is_some_and(|table| table.drops());
        if state.stays
            && is_there
            && drops
            && state.refused.is_none()
            && let Some(program) = state.program.upgrade()
            && program.maps().close(self.config.queue).is_ok()
        {
            // The socket leaves its map when it is closed: what was for it goes to the kernel.
            state.kept = Some(program);
        } else {
            state.forget(self.config.queue);
        }
    }

    /// For operators: how many rules are decided where.
    pub(crate) fn told(&self) -> Option<String> {
        let state = self.state();
        let taken = state.table.as_ref().filter(|table| table.taken.of > 0)?.taken;
        if let Some(refused) = &state.refused {
            return Some(format!("0 of {} rules in XDP: {refused}", taken.of));
        }
        if taken.rules < taken.of {
            return Some(format!(
                "{} of {} rules in XDP, the rest behind it: {}",
                taken.rules,
                taken.of,
                limits()
            ));
        }
        Some(format!("{} of {} rules in XDP", taken.rules, taken.of))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.let_go(self.config.queue);
    }
}

/// All that there are.
fn all() -> Vec<Arc<Steering>> {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter_map(Weak::upgrade).collect()
}

/// Why rules do not fit.
fn limits() -> String {
    format!("up to {TUPLES_MAX} different sets of fields and {ENTRIES_MAX} entries fit")
}

impl Steer for Steering {
    fn replace(&self, rules: &[Rule], port: u16) -> Result<OffloadedRules, PortError> {
        let table = Arc::new(Table::new(rules, port));
        let taken = table.taken;
        let mut state = self.state();
        state.table = Some(Arc::clone(&table));
        state.refused = None;
        if !table.drops() {
            state.let_go(self.config.queue);
        }
        let program = state.program.upgrade();
        state.waits = program.is_none();
        let Some(program) = program else { return Ok(taken) };
        self.give(&program, &table).map(|()| taken).map_err(|problem| {
            state.refused = Some(problem.clone());
            error::device(&self.name, problem)
        })
    }

    fn kind(&self) -> &'static str {
        "xdp"
    }

    fn places(&self) -> Vec<Place> {
        let state = self.state();
        let Some(table) = &state.table else { return Vec::new() };
        let program = state.program.upgrade();
        let why = match (&state.refused, &program) {
            (Some(refused), _) => Some(Arc::from(&**refused)),
            (None, None) => Some(Arc::from("the port is not open")),
            (None, Some(_)) => None,
        };
        let full: Arc<str> = limits().into();
        let full_for_kernel: Arc<str> =
            format!("{full}; without `kernel` at the port its packets are dropped").into();
        let flows = program
            .map(|program| program.maps().flows(self.config.queue, table))
            .unwrap_or_default();
        let place = |rule: &Option<(u32, Target)>| match rule {
            None => Place::Nowhere,
            Some((_, Target::Chain(_))) => Place::Behind(None),
            Some(_) if why.is_some() => Place::Behind(why.clone()),
            Some((number, target)) if *number as usize >= table.taken.rules => {
                let full = if *target == Target::Kernel { &full_for_kernel } else { &full };
                Place::Behind(Some(Arc::clone(full)))
            }
            Some((number, _)) => {
                let flows = Some(flows.get(number).copied().unwrap_or_default());
                Place::Before { flows, packets: None }
            }
        };
        table.given.iter().map(place).collect()
    }

    fn precede_port(&self) -> Result<bool, PortError> {
        if !self.table().drops() {
            return Ok(false);
        }
        let refused = |problem: String| error::device(&self.name, problem);
        let interface = Interface::find(&self.config.interface).ok().flatten();
        let interface = interface.filter(|found| program::key(found) == self.interface);
        let interface = interface.ok_or_else(|| refused(error::gone(&self.config.interface)))?;
        let claim = self.attach(&interface).map_err(refused)?;
        self.state().stays = true;
        // As if the port had been open.
        self.closing(true);
        drop(claim);
        Ok(self.state().kept.is_some())
    }

    fn outlive_port(&self, stay: bool) -> bool {
        let mut state = self.state();
        state.stays = stay;
        if !stay {
            state.let_go(self.config.queue);
        }
        state.kept.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use weir_steering::{Key, Prefix};

    use super::*;

    /// What the program does with the maps.
    fn search(table: &Table, key: &Key) -> u16 {
        let mut found = (u32::MAX, TO_SOCKET);
        for (fields, tuple, number, action) in &table.entries {
            let mask = table.tuples[*tuple as usize].0;
            let masked = key.words().into_iter().zip(mask).map(|(word, mask)| word & mask);
            if masked.eq(*fields) && *number < found.0 {
                found = (*number, *action);
            }
        }
        found.1
    }

    fn rule(length: u8, port: u16, target: Target) -> Rule {
        let address = Ipv4Addr::new(10, 0, 0, 0).into();
        Rule {
            destination: Some(Prefix { address, length }),
            destination_ports: (port > 0).then_some((port, port)),
            ..Rule::all(target)
        }
    }

    fn key(port: u16) -> Key {
        let destination = Ipv4Addr::new(10, 0, 0, 0).to_ipv6_mapped().octets();
        Key { destination, destination_port: port, ethertype: 0x0800, ..Key::default() }
    }

    #[test]
    fn rules_for_chains_alone_need_no_table() {
        let rules = [rule(8, 1, Target::Chain(0)), Rule::all(Target::Chain(1))];
        let table = Table::new(&rules, 0);
        assert_eq!((table.tuples.len(), table.entries.len()), (0, 0));
        assert_eq!(table.taken, OffloadedRules { rules: 2, of: 2 });
        // They count in front of another.
        let rules = [rule(8, 1, Target::Chain(0)), Rule::all(Target::Drop)];
        let table = Table::new(&rules, 0);
        assert_eq!(table.entries.len(), 2);
        assert_eq!((search(&table, &key(1)), search(&table, &key(2))), (TO_SOCKET, TO_NOWHERE));
    }

    #[test]
    fn other_ports_rules_are_none_of_this() {
        let other = Rule { port: Some(1), ..Rule::all(Target::Drop) };
        let table = Table::new(&[other, Rule { port: Some(0), ..Rule::all(Target::Kernel) }], 0);
        assert_eq!(table.taken, OffloadedRules { rules: 1, of: 1 });
        assert_eq!(search(&table, &key(1)), TO_KERNEL);
    }

    #[test]
    fn what_does_not_fit_is_for_who_reads_the_socket() {
        // 33 lengths with a port and without: 66 tuples.
        let rules: Vec<_> =
            (0..=32).flat_map(|n| [rule(n, 1, Target::Drop), rule(n, 0, Target::Kernel)]).collect();
        let table = Table::new(&rules, 0);
        assert_eq!(table.tuples.len(), TUPLES_MAX);
        assert_eq!(table.taken, OffloadedRules { rules: 64, of: 66 });
    }

    proptest! {
        #[test]
        fn the_table_decides_as_the_rules_do(
            rules in prop::collection::vec((0..=32_u8, 0..3_u16, 0..3_u8), 0..100), port in 0..4_u16,
        ) {
            let target = |n| [Target::Chain(0), Target::Kernel, Target::Drop][usize::from(n)];
            let rules: Vec<_> = rules.into_iter().map(|(l, p, t)| rule(l, p, target(t))).collect();
            let table = Table::new(&rules, 0);
            let decided = rules[..table.taken.rules].iter().find(|rule| rule.matches(&key(port)));
            let expected = match decided.map(|rule| rule.target) {
                Some(Target::Kernel) => TO_KERNEL,
                Some(Target::Drop) => TO_NOWHERE,
                _ => TO_SOCKET,
            };
            prop_assert_eq!(search(&table, &key(port)), expected);
        }
    }
}
