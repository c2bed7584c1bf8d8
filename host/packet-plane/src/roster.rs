//! A worker's lanes and stations: who takes turns, and who sleeps until something happens. Both are
//! called lanes here, as there is no difference.
//!
//! A lane that has had nothing to do for a while sleeps: it takes no turns, so that a packet of a
//! busy lane costs the same beside a thousand idle ones (`scripts/bench deployed`). It wakes when a
//! descriptor of one of its ports is readable, when its time has come, or when somebody wants
//! something of it. The descriptors of all lanes are in one epoll(7), each for one event and then
//! for none until its lane sleeps again; setting it up anew finds what came meanwhile, so nothing
//! is missed.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::lane::{Lane, Turn, earlier};
use crate::station::Station;

/// How long a lane goes on being asked when there is nothing: about as long as falling asleep and
/// being woken takes, so that waiting never costs more than twice what it has to.
const SPIN: Duration = Duration::from_micros(20);
/// When a port has to be asked again whose descriptor cannot be waited for.
const ASK_AGAIN: Duration = Duration::from_millis(1);
/// Descriptors that are looked at in one go.
const EVENTS: usize = 64;
/// What the doorbell is known by; lanes count from 1.
const DOORBELL: u64 = 0;

/// See the module.
pub(crate) struct Roster {
    awake: Vec<Slot>,
    asleep: HashMap<u64, Slot>,
    numbers: HashMap<String, u64>,
    /// When sleepers wake at the latest.
    alarms: BTreeSet<(Instant, u64)>,
    /// Sleepers that a descriptor can wake.
    watched: usize,
    last: u64,
    epoll: OwnedFd,
}

/// What takes turns.
pub(crate) enum Driven {
    Lane(Box<Lane>),
    Station(Box<Station>),
}

impl Driven {
    fn turn(&mut self) -> Turn {
        match self {
            Self::Lane(lane) => lane.turn(),
            Self::Station(station) => station.turn(),
        }
    }

    fn settle(&mut self) -> Option<Duration> {
        match self {
            Self::Lane(lane) => lane.settle(),
            Self::Station(station) => station.settle(),
        }
    }

    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        match self {
            Self::Lane(lane) => lane.readiness(fds),
            Self::Station(station) => station.readiness(fds),
        }
    }
}

struct Slot {
    number: u64,
    lane: Driven,
    idle_since: Option<Instant>,
    alarm: Option<Instant>,
    watched: bool,
}

/// Why [`Roster::look`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Nobody is there, and the time has passed.
    Nothing,
    /// A lane is awake that was asleep.
    Woken,
    /// The doorbell rings.
    Doorbell,
}

impl Roster {
    /// No lanes. `doorbell` ends a sleep as long as it is readable.
    ///
    /// # Errors
    /// When the system has no descriptor for it.
    pub(crate) fn new(doorbell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(DOORBELL);
        epoll::add(&epoll, doorbell, data, epoll::EventFlags::IN)?;
        Ok(Self {
            awake: Vec::new(),
            asleep: HashMap::new(),
            numbers: HashMap::new(),
            alarms: BTreeSet::new(),
            watched: 0,
            last: DOORBELL,
            epoll,
        })
    }

    /// Takes a lane in, awake; the answer is the one that had this name.
    pub(crate) fn insert(&mut self, name: String, lane: Driven) -> Option<Driven> {
        let before = self.remove(&name);
        self.last += 1;
        let number = self.last;
        self.numbers.insert(name, number);
        self.awake.push(Slot { number, lane, idle_since: None, alarm: None, watched: false });
        before
    }

    /// Gives a lane away.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Driven> {
        let number = self.numbers.remove(name)?;
        self.wake(number, true);
        let place = self.awake.iter().position(|slot| slot.number == number)?;
        let slot = self.awake.swap_remove(place);
        let mut fds = Vec::new();
        slot.lane.readiness(&mut fds);
        for fd in fds {
            // It may never have been waited for.
            let _ = epoll::delete(&self.epoll, fd);
        }
        Some(slot.lane)
    }

    /// A lane, which is awake from now on: whoever asks for it may change what it waits for.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Driven> {
        let number = *self.numbers.get(name)?;
        self.wake(number, true);
        let slot = self.awake.iter_mut().find(|slot| slot.number == number)?;
        Some(&mut slot.lane)
    }

    /// Whether somebody takes turns.
    pub(crate) fn anybody_awake(&self) -> bool {
        !self.awake.is_empty()
    }

    /// A turn for everybody who is awake. Whoever has had nothing to do for long enough sleeps
    /// afterwards.
    pub(crate) fn round(&mut self) {
        let mut place = 0;
        while let Some(slot) = self.awake.get_mut(place) {
            let until = match slot.lane.turn() {
                Turn::Busy => {
                    slot.idle_since = None;
                    place += 1;
                    continue;
                }
                Turn::Idle(until) => {
                    if slot.idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                        place += 1;
                        continue;
                    }
                    until
                }
                Turn::Ended => None,
            };
            let slot = self.awake.swap_remove(place);
            self.put_to_sleep(slot, until);
        }
    }

    fn put_to_sleep(&mut self, mut slot: Slot, until: Option<Duration>) {
        let mut wait = earlier(until, slot.lane.settle());
        let mut fds = Vec::new();
        slot.lane.readiness(&mut fds);
        slot.watched = !fds.is_empty();
        for fd in fds {
            if self.wait_for(fd, slot.number).is_err() {
                wait = earlier(wait, Some(ASK_AGAIN));
            }
        }
        self.watched += usize::from(slot.watched);
        // A time too long for the clock is for ever.
        slot.alarm = wait.and_then(|wait| Instant::now().checked_add(wait));
        self.alarms.extend(slot.alarm.map(|alarm| (alarm, slot.number)));
        self.asleep.insert(slot.number, slot);
    }

    /// One event of this descriptor wakes the lane. Sets up anew what was set up before, unless the
    /// port has opened another.
    fn wait_for(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(number);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        match epoll::modify(&self.epoll, fd, data, flags) {
            Err(Errno::NOENT) => Ok(epoll::add(&self.epoll, fd, data, flags)?),
            other => Ok(other?),
        }
    }

    /// It takes turns again: for [`SPIN`] at least if it is expected to have something, else one,
    /// and then it sleeps if it has nothing.
    fn wake(&mut self, number: u64, expected: bool) {
        let Some(mut slot) = self.asleep.remove(&number) else { return };
        if expected {
            slot.idle_since = None;
        }
        if let Some(alarm) = slot.alarm.take() {
            self.alarms.remove(&(alarm, number));
        }
        self.watched -= usize::from(slot.watched);
        slot.watched = false;
        self.awake.push(slot);
    }

    /// Wakes the sleepers whose time has come or whose ports have something, without waiting.
    /// Beside sleepers that nothing can wake it costs nothing.
    pub(crate) fn glance(&mut self) {
        if self.watched > 0 {
            self.look(Some(Duration::ZERO));
        } else if !self.alarms.is_empty() {
            self.ring_alarms();
        }
    }

    /// The same, and waits until there is one, the doorbell rings, or this time (none: for ever)
    /// has passed.
    pub(crate) fn look(&mut self, longest: Option<Duration>) -> Looked {
        let alarm = self.alarms.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let wait = earlier(alarm, longest).and_then(|wait| Timespec::try_from(wait).ok());
        let mut buffer = [const { MaybeUninit::uninit() }; EVENTS];
        // Interrupted or not, whoever is there is there the next time.
        let events = match epoll::wait(&self.epoll, &mut buffer, wait.as_ref()) {
            Ok((events, _)) => events,
            Err(_) => &mut [],
        };
        let mut looked = Looked::Nothing;
        for event in events {
            let number = event.data.u64();
            if number == DOORBELL {
                looked = Looked::Doorbell;
                continue;
            }
            self.wake(number, true);
            if looked == Looked::Nothing {
                looked = Looked::Woken;
            }
        }
        if self.ring_alarms() && looked == Looked::Nothing {
            looked = Looked::Woken;
        }
        looked
    }

    /// Wakes those whose time has come; whether there were some.
    fn ring_alarms(&mut self) -> bool {
        let now = Instant::now();
        let mut rang = false;
        while let Some(&(at, number)) = self.alarms.first()
            && at <= now
        {
            self.wake(number, false);
            rang = true;
        }
        rang
    }
}
