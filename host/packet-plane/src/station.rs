//! A station: ports and their pool on one worker, and the lanes whose packets come in by them.
//!
//! All chains of one tenant between the same two ports share a station, and with it the pool: which
//! of them a packet passes is a matter of [`Steering`], and its bytes stay where the port put them.
//! Pool and ports are lent to the lane whose turn it is. A station with one chain that takes
//! everything is that lane, and costs nothing more.

use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use weir_layout::FLAG_MADE;
use weir_pool::{Accounting, Packet};
use weir_port::{Moved, Port, PortError, PortStatistics};
use weir_sandbox::Sandbox;
use weir_steering::Key;

use crate::context::{Context, Entry, Got, Move};
use crate::counters::{DropReason, Shared};
use crate::ground::Ground;
use crate::lane::{self, Lane, LaneConfig, TURN, Turn};
use crate::plan::{LaneSite, PlaneError};
use crate::steering::{Destination, Rules, Steering, Way, other_port};
use crate::trial::Trial;

/// See the module.
pub struct Station {
    site: LaneSite,
    /// Pool and ports, when no lane has them.
    context: Option<Box<Context>>,
    /// The lane that has them.
    seated: Option<usize>,
    members: Vec<Member>,
    /// There but during a burst, also while nobody asks it: it has megabytes, and is not made on
    /// the data path.
    steering: Option<Box<Steering>>,
    /// Packets have to be told apart.
    tells_apart: bool,
    rules: Arc<Rules>,
    /// Counts of what no lane had.
    shared: Arc<Shared>,
    /// Packets were moved to lanes that have not had a turn since.
    moved: bool,
    /// Functions move flows.
    moves: bool,
}

struct Member {
    key: String,
    lane: Lane,
    /// It takes what no rule claims.
    takes_rest: bool,
    /// It had packets in this turn.
    touched: bool,
    /// The instance of its chain whose decisions about flows are remembered.
    instance: u64,
}

impl Member {
    /// Whether functions of its chain may write to packets.
    fn writes(&self) -> bool {
        self.lane.plan().functions.iter().any(|function| function.writes)
    }
}

impl Station {
    /// Makes the pool and attaches the ports. `flows`: how many flows are remembered at least, once
    /// packets have to be told apart; 128 bytes each are there from now on, and 64 more beside the
    /// kernel's stack.
    ///
    /// # Errors
    /// When there is no memory, or a port cannot work with the pool.
    pub fn new(
        sandbox: Arc<Sandbox>,
        name: &str,
        config: LaneConfig,
        flows: usize,
    ) -> Result<Self, PlaneError> {
        Ok(Self::over(lane::foundation(sandbox, name, config)?, flows))
    }

    /// The same where the pool is there already, with lanes that were made for it.
    ///
    /// # Errors
    /// When a port cannot work with the pool.
    pub fn on(ground: Ground, ports: Vec<Box<dyn Port>>, flows: usize) -> Result<Self, PlaneError> {
        Ok(Self::over(ground.with_ports(ports)?, flows))
    }

    fn over((mut context, site): (Context, LaneSite), flows: usize) -> Self {
        context.stationed = true;
        let shared = Arc::clone(&context.ledger.shared);
        let steering = Steering::new(flows, site.seed, context.kernel.is_some());
        Self {
            site,
            context: Some(Box::new(context)),
            seated: None,
            members: Vec::new(),
            steering: Some(Box::new(steering)),
            tells_apart: false,
            rules: Arc::default(),
            shared,
            moved: false,
            moves: false,
        }
    }

    /// What is needed to make a lane for this station elsewhere.
    #[must_use]
    pub fn site(&self) -> LaneSite {
        self.site.clone()
    }

    /// What became of packets that no lane had, to read from elsewhere.
    #[must_use]
    pub fn counters(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The ports' counters, to read from elsewhere: name, kind, counters.
    #[must_use]
    pub fn port_statistics(&self) -> Vec<(String, &'static str, PortStatistics)> {
        let ports = self.context().ports.iter();
        ports.map(|p| (p.name().to_owned(), p.kind(), p.statistics().clone())).collect()
    }

    /// Gives it a lane that was made for its site. With `takes_rest` it gets the packets that no
    /// rule claims.
    pub fn add(&mut self, key: String, lane: Lane, takes_rest: bool) {
        let instance = lane.version.instance;
        self.members.push(Member { key, lane, takes_rest, touched: true, instance });
        self.arrange();
    }

    /// Takes a lane away, when what it has under way is done: held packets are dropped and counted.
    pub fn remove(&mut self, key: &str) -> Option<Lane> {
        let index = self.index(key)?;
        self.seat(index);
        let ended = self.context().ended.clone();
        self.context_mut().ended.fill(true);
        self.members[index].lane.close();
        self.note_moves(index, None);
        self.seat(index);
        self.discard_moved();
        self.context_mut().ended = ended;
        self.unseat();
        let lane = self.members.remove(index).lane;
        self.arrange();
        Some(lane)
    }

    /// Number of lanes.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.members.len()
    }

    /// Does something with a lane between two bursts, and forgets what was decided about flows: it
    /// may be another version afterwards.
    pub fn with<R>(&mut self, key: &str, act: impl FnOnce(&mut Lane) -> R) -> Option<R> {
        let index = self.index(key)?;
        self.seat(index);
        let result = act(&mut self.members[index].lane);
        self.members[index].touched = true;
        self.arrange();
        Some(result)
    }

    /// Looks at a lane between two bursts: nothing is decided anew. Whoever changes what it runs
    /// takes [`Self::with`].
    pub fn look<R>(&mut self, key: &str, look: impl FnOnce(&mut Lane) -> R) -> Option<R> {
        let index = self.index(key)?;
        self.seat(index);
        Some(look(&mut self.members[index].lane))
    }

    /// Whether this lane gets what no rule claims.
    pub fn set_takes_rest(&mut self, key: &str, takes_rest: bool) {
        if let Some(index) = self.index(key) {
            self.members[index].takes_rest = takes_rest;
            self.arrange();
        }
    }

    /// Other rules hold from the next burst on. Those before are given back, to be dropped off the
    /// data path.
    pub fn steer(&mut self, rules: Arc<Rules>) -> Arc<Rules> {
        let before = mem::replace(&mut self.rules, rules);
        self.arrange();
        before
    }

    fn index(&self, key: &str) -> Option<usize> {
        self.members.iter().position(|member| member.key == key)
    }

    /// Finds out anew which lane is where, and whether packets have to be told apart at all.
    fn arrange(&mut self) {
        for member in &mut self.members {
            member.instance = member.lane.version.instance;
        }
        let rest = self.members.iter().position(|member| member.takes_rest);
        let lanes = self.members.iter().map(|member| member.lane.plan());
        let decides = lanes.into_iter().flat_map(|plan| &plan.functions);
        let decides =
            self.moves || decides.into_iter().any(|f| f.flow_verdicts || !f.targets.is_empty());
        self.tells_apart =
            !self.rules.is_empty() || self.members.len() != 1 || rest.is_none() || decides;
        self.context_mut().notes_answers = self.tells_apart && self.context().kernel.is_some();
        let asked = self.members.iter().filter(|_| self.tells_apart);
        let lanes = asked.map(|member| (member.key.clone(), member.lane.plan().upward.is_some()));
        let (lanes, rest) = (lanes.collect(), rest.filter(|_| self.tells_apart));
        if let Some(steering) = &mut self.steering {
            steering.arrange(Arc::clone(&self.rules), lanes, rest);
        }
        self.forget_placed();
    }

    /// What is before the ports knows nothing of moved flows any more, as [`Steering`] does not.
    fn forget_placed(&mut self) {
        for port in &mut self.context_mut().ports {
            port.forget_flows();
        }
    }

    /// Forgets all flows, in front of the ports too, if that was put off. Between two bursts.
    #[inline]
    fn forget_if_stale(&mut self, steering: &mut Steering) {
        if steering.forget_if_stale() {
            self.forget_placed();
        }
    }

    fn context(&self) -> &Context {
        let context = match self.seated {
            Some(index) => self.members[index].lane.context.as_ref(),
            None => self.context.as_ref(),
        };
        context.expect("the context is home between calls")
    }

    fn context_mut(&mut self) -> &mut Context {
        let context = match self.seated {
            Some(index) => self.members[index].lane.context.as_mut(),
            None => self.context.as_mut(),
        };
        context.expect("the context is home between calls")
    }

    /// Lends pool and ports to a lane.
    fn seat(&mut self, index: usize) {
        if self.seated == Some(index) {
            return;
        }
        self.unseat();
        if let Some(mut context) = self.context.take() {
            context.count_out();
            self.members[index].lane.lend(context);
            self.seated = Some(index);
        }
    }

    /// Takes pool and ports back.
    fn unseat(&mut self) {
        if let Some(index) = self.seated.take() {
            self.context_mut_of(index).count_out();
            self.context = self.members[index].lane.take_back();
        }
    }

    fn context_mut_of(&mut self, index: usize) -> &mut Context {
        self.members[index].lane.context_mut()
    }

    /// Handles bursts until the turn is over, there are no packets, or all has ended.
    pub fn turn(&mut self) -> Turn {
        if !self.tells_apart && self.members.len() == 1 {
            self.seat(0);
            let turn = self.members[0].lane.turn();
            if !self.context().moves.is_empty() {
                // To the kernel's stack, which needs no targets. From now on flows are told apart.
                self.moves = true;
                self.arrange();
                let mut steering = self.steering.take();
                self.note_moves(0, steering.as_deref_mut());
                self.steering = steering;
                // The lane may be about to sleep.
                let context = self.context_mut();
                context.flush();
                context.publish();
            }
            return turn;
        }
        if self.members.is_empty() {
            // Nobody could have what comes in.
            return Turn::Idle(None);
        }
        let mut got = Got::Nothing;
        self.context_mut().idle_for = None;
        for _ in 0..TURN {
            if self.moved {
                self.let_moved_go_on();
            }
            self.context_mut().flush();
            got = self.context_mut().receive_from_ports();
            if got != Got::Burst {
                break;
            }
            self.divide_burst();
        }
        let again = self.context().idle_for;
        let under_way = self.let_lanes_go_on(got == Got::Nothing);
        self.unseat();
        let context = self.context_mut();
        context.flush();
        context.publish();
        if got != Got::Nothing {
            return Turn::Busy;
        }
        match under_way {
            Turn::Idle(until) => Turn::Idle(lane::earlier(until, again)),
            other => other,
        }
    }

    /// Sends each packet of the burst its way, those with the same way together.
    fn divide_burst(&mut self) {
        let Some(mut steering) = self.steering.take() else { return };
        let reverse = self.context().reverse;
        steering.classify(self.context());
        if let Some(way) = steering.only_way() {
            let context = self.context_mut();
            context.flows.clear();
            context.flows.extend(0..context.burst.len() as u32);
            self.take(way, reverse, &mut steering);
        } else {
            let mut burst = mem::take(&mut steering.aside);
            mem::swap(&mut burst, &mut self.context_mut().burst);
            while let Some(way) = steering.next_way() {
                let context = self.context_mut();
                context.flows.clear();
                for place in steering.places() {
                    context.burst.push(burst[*place as usize]);
                    context.flows.push(*place);
                }
                self.take(way, reverse, &mut steering);
            }
            burst.clear();
            steering.aside = burst;
        }
        self.forget_if_stale(&mut steering);
        self.context_mut().flows.clear();
        self.steering = Some(steering);
    }

    /// Does with the burst what its way calls for.
    fn take(&mut self, way: Way, reverse: bool, steering: &mut Steering) {
        // Whose packets they are: a lane's, or nobody's.
        match way.destination {
            Destination::Lane(index) => self.seat(index),
            Destination::Final(verdict) => self.seat(verdict.lane),
            Destination::Kernel | Destination::Answer | Destination::Dropped(_) => self.unseat(),
        }
        let context = self.context_mut();
        // What lanes had under way may have run meanwhile.
        (context.reverse, context.moved) = (reverse, 0);
        if way.destination == Destination::Answer {
            return context.send_for_kernel();
        }
        context.count_in();
        let index = match way.destination {
            Destination::Lane(index) => index,
            Destination::Final(verdict) => {
                context.apply_to_burst(verdict.verdict);
                return self.note_answers(Some(verdict.lane), steering);
            }
            Destination::Kernel => {
                context.for_nobody(Context::give_burst_to_kernel);
                return self.note_answers(None, steering);
            }
            Destination::Answer => return,
            Destination::Dropped(reason) => {
                return context.for_nobody(|context| context.drop_burst(reason));
            }
        };
        let member = &mut self.members[index];
        member.touched = true;
        let functions = member.lane.plan().functions.len();
        let context = member.lane.context_mut();
        if way.skip.count_ones() as usize == functions {
            context.pass_burst_by();
            return self.note_answers(Some(index), steering);
        }
        member.lane.pass(way.skip);
        self.note_answers(Some(index), steering);
        self.note_conclusions(index, reverse, steering);
        self.note_moves(index, Some(steering));
        self.forget_if_changed(index, steering);
    }

    /// Remembers whose the answers to what just went up to the kernel will be: this lane's, or
    /// nobody's.
    fn note_answers(&mut self, lane: Option<usize>, steering: &mut Steering) {
        let answers = &mut self.context_mut().answers;
        if !answers.is_empty() {
            steering.note_answers(answers, lane);
        }
    }

    /// Remembers what a lane's functions decided about flows of the burst.
    fn note_conclusions(&mut self, index: usize, reverse: bool, steering: &mut Steering) {
        let member = &mut self.members[index];
        if member.lane.context_mut().conclusions.is_empty() {
            return;
        }
        let mut conclusions = mem::take(&mut member.lane.context_mut().conclusions);
        steering.conclude(index, &member.lane.plan().functions, reverse, &conclusions);
        conclusions.clear();
        member.lane.context_mut().conclusions = conclusions;
    }

    /// Sends packets on that a lane's functions moved elsewhere, and their flows after them.
    fn note_moves(&mut self, index: usize, mut steering: Option<&mut Steering>) {
        if self.context().moves.is_empty() {
            return;
        }
        self.seat(index);
        let mut moves = mem::take(&mut self.context_mut().moves);
        for Move { packet, function, target, flow, reverse, moves } in moves.drain(..) {
            let destination = self.destination(index, function, target);
            if let Some(steering) = steering.as_deref_mut()
                && let Some(destination) = destination
                && let Some(key) = self.key(index, packet, flow, steering)
            {
                steering.move_flow(&key, destination);
                let all_come = steering.all_come();
                self.place_flow(&key, destination, all_come);
            }
            // Functions that disagree would have it for ever.
            let loops = usize::from(moves) >= self.members.len().min(usize::from(u8::MAX));
            let context = self.context_mut();
            match destination {
                Some(Destination::Lane(_)) if loops => {
                    context.discard(packet.buffer, DropReason::MoveLoop);
                }
                Some(Destination::Lane(to)) => {
                    context.ledger.counters.packets_moved += 1;
                    let lane = &mut self.members[to].lane;
                    let last = lane.plan().functions.len() - 1;
                    let ledger = lane.ledger_mut();
                    ledger.counters.packets_in += 1;
                    let start = if reverse { last } else { 0 };
                    ledger.entries.push_back(Entry { packet, start, reverse, moves: moves + 1 });
                    self.members[to].touched = true;
                    self.moved = true;
                    self.show_moved(to, packet);
                }
                Some(_) => context.give_to_kernel(packet),
                None => context.discard(packet.buffer, DropReason::NoTarget),
            }
        }
        self.context_mut().moves = moves;
        // Of flows that were moved to the kernel no lane sees anything any more.
        match steering {
            Some(steering) => self.note_answers(None, steering),
            None => self.context_mut().answers.clear(),
        }
    }

    /// The key of a flow of which a lane's function has moved this packet, if that holds for the
    /// flow, and it is known which that was.
    fn key(
        &self,
        index: usize,
        packet: Packet,
        flow: Option<u32>,
        steering: &Steering,
    ) -> Option<Key> {
        let splits = self.members[index].lane.trial.as_ref().is_some_and(Trial::splits);
        match flow {
            Some(flow) => Some(steering.key(flow)),
            // What one of two versions says holds for the packet, and a packet that a function made
            // begins no flow here.
            None if splits || packet.metadata.flags & FLAG_MADE != 0 => None,
            // It did not come straight from the port, and functions may have made another flow's of
            // it: that is not the one that comes in.
            None if self.members.iter().any(Member::writes) => None,
            None => {
                let frame = self.context().pool.bytes(packet.descriptor).unwrap_or_default();
                Some(Key::read(frame, packet.metadata.port))
            }
        }
    }

    /// Shows a packet that comes to a lane from another one to those who look at that lane.
    fn show_moved(&mut self, to: usize, packet: Packet) {
        if self.members[to].lane.ledger().observers.watch() {
            let mut observers = mem::take(&mut self.members[to].lane.ledger_mut().observers);
            observers.came(self.context().pool.memory(), &[packet]);
            self.members[to].lane.ledger_mut().observers = observers;
        }
    }

    /// What a function's target number means.
    fn destination(&self, index: usize, function: usize, target: u16) -> Option<Destination> {
        let Some(place) = usize::from(target).checked_sub(1) else {
            return Some(Destination::Kernel);
        };
        let name = self.members[index].lane.plan().functions.get(function)?.targets.get(place)?;
        self.index(name).map(Destination::Lane)
    }

    /// This flow goes there from now on; what is before the ports sees to that where it has to: not
    /// where all packets come in (`all_come`).
    fn place_flow(&mut self, key: &Key, destination: Destination, all_come: bool) {
        let context = self.context_mut();
        let other = other_port(key.port);
        for (number, key) in [(key.port, *key), (other, key.reversed(other))] {
            let number = usize::from(number);
            // By a way beside the port all of its packets go, and not by two interfaces.
            let passes =
                destination == Destination::Kernel && context.way_to_kernel(number).is_none();
            // Nothing comes in by a port that is not read.
            let is_read = context.ended.get(number) == Some(&false);
            let Some(port) = context.ports.get_mut(number).filter(|_| is_read) else { continue };
            if passes {
                port.place_flow(&key, Moved::ToKernel);
            } else if !all_come {
                // Some of them no rule may have claimed, or one may have for somebody else.
                port.place_flow(&key, Moved::ToChain);
            }
        }
    }

    /// A version that is gone has nothing to say about flows any more, from the next burst on.
    fn forget_if_changed(&mut self, index: usize, steering: &mut Steering) {
        let member = &mut self.members[index];
        if member.instance != member.lane.version.instance {
            member.instance = member.lane.version.instance;
            steering.forget_later();
        }
    }

    /// Lets lanes handle what was moved to them, before more of the same flows comes to them
    /// straight from the ports.
    #[cold]
    fn let_moved_go_on(&mut self) {
        // No longer than a way past all of them: they may move packets in circles.
        for _ in 0..self.members.len() {
            if !mem::take(&mut self.moved) {
                break;
            }
            self.let_lanes_go_on(false);
        }
    }

    /// Lets lanes handle what they have under way, their timers and their faults: those that had
    /// packets, those whose time has come, and all of them (`all`) before the station sleeps.
    fn let_lanes_go_on(&mut self, all: bool) -> Turn {
        let mut turn = Turn::Ended;
        let now = self.context().now;
        // Once more for lanes that others moved packets to.
        for _ in 0..2 {
            for index in 0..self.members.len() {
                let timer = self.members[index].lane.ledger().timer;
                let due = timer != 0 && timer <= now;
                if !all && !due && !self.members[index].touched {
                    continue;
                }
                self.seat(index);
                self.members[index].touched = false;
                self.context_mut().closed = true;
                turn = sooner(turn, self.members[index].lane.turn());
                self.context_mut().closed = false;
                if let Some(mut steering) = self.steering.take() {
                    self.note_answers(Some(index), &mut steering);
                    self.note_moves(index, Some(&mut steering));
                    self.forget_if_changed(index, &mut steering);
                    self.forget_if_stale(&mut steering);
                    self.steering = Some(steering);
                }
            }
            if self.members.iter().all(|member| member.lane.ledger().entries.is_empty()) {
                return turn;
            }
        }
        Turn::Busy
    }

    /// Has the ports do what is due although there are no packets; see [`Lane::settle`].
    pub fn settle(&mut self) -> Option<Duration> {
        let context = self.context_mut();
        let next = context.settle();
        context.publish();
        let again = context.ledger.publish_again();
        let lanes = self.members.iter().map(|member| member.lane.ledger().publish_again());
        lanes.fold(lane::earlier(next, again), lane::earlier)
    }

    /// Appends the descriptors that are readable when a port has something.
    pub fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        for port in &self.context().ports {
            port.readiness(fds);
        }
    }

    /// Ends all lanes and finishes the ports. The answer is where the pool's buffers are: none may
    /// be out.
    ///
    /// # Errors
    /// When a port cannot write out what it has.
    pub fn finish(&mut self) -> Result<Accounting, PortError> {
        self.context_mut().ended.fill(true);
        for index in 0..self.members.len() {
            self.seat(index);
            self.members[index].lane.close();
            self.note_moves(index, None);
        }
        for index in 0..self.members.len() {
            self.seat(index);
            self.discard_moved();
        }
        self.unseat();
        let context = self.context_mut();
        context.flush();
        let finished = context.finish_ports();
        context.publish();
        finished.map(|()| self.context().pool.accounting())
    }

    /// Drops what was moved to the seated lane when that had ended.
    fn discard_moved(&mut self) {
        let context = self.context_mut();
        for entry in mem::take(&mut context.ledger.entries) {
            context.discard(entry.packet.buffer, DropReason::HeldAtEnd);
        }
        context.publish();
    }

    /// Takes the ports out, once the station has ended.
    #[must_use]
    pub fn into_ports(mut self) -> Vec<Box<dyn Port>> {
        self.unseat();
        self.context.take().map(|context| context.ports).unwrap_or_default()
    }
}

/// What has to be done first of two turns' answers.
fn sooner(a: Turn, b: Turn) -> Turn {
    match (a, b) {
        (Turn::Busy, _) | (_, Turn::Busy) => Turn::Busy,
        (Turn::Idle(a), Turn::Idle(b)) => Turn::Idle(lane::earlier(a, b)),
        (Turn::Ended, other) | (other, Turn::Ended) => other,
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use weir_pool::{HugePages, PoolConfig};
    use weir_port::memory::{Keep, MemoryPort};
    use weir_sandbox::SandboxConfig;
    use weir_steering::{Rule, Table, Target};

    use super::*;
    use crate::Clock;

    fn station() -> Station {
        let config = LaneConfig {
            pool: PoolConfig { rooms: 64, room_bytes: 2048, huge: HugePages::Never },
            ports: vec![Box::new(MemoryPort::new("memory", None, Keep::Nothing))],
            symmetric: false,
            clock: Clock::Monotonic,
            burst: 32,
            seed: 1,
            on_event: None,
        };
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
        Station::new(sandbox, "station", config, 1 << 10).unwrap()
    }

    /// Who sleeps has nothing to publish: the last packets would be seen when the next one comes.
    #[test]
    fn who_could_not_publish_its_counts_does_not_sleep_on_them() {
        let mut station = station();
        let shared = station.counters();
        let reader = shared.hold();
        station.context_mut().ledger.counters.packets_in = 7;
        assert!(station.settle().is_some());
        drop(reader);
        assert_eq!(station.settle(), None);
        assert_eq!(shared.read().0.packets_in, 7);
        assert_eq!(station.finish().unwrap().out, 0);
    }

    #[test]
    fn room_for_flows_is_there_before_the_first_rule_and_behind_the_last() {
        let mut station = station();
        let place = |steering: &Option<Box<Steering>>| {
            ptr::from_ref::<Steering>(steering.as_ref().expect("it is there")).addr()
        };
        let made = place(&station.steering);
        let rules = Rules { table: Table::new(&[Rule::all(Target::Drop)]), ..Rules::default() };
        let rules = Arc::new(rules);
        for _ in 0..2 {
            drop(station.steer(Arc::clone(&rules)));
            assert_eq!(place(&station.steering), made);
        }
        drop(station.steer(Arc::default()));
        assert_eq!(station.finish().unwrap().out, 0);
    }
}
