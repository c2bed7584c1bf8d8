//! What a port does while nothing comes in: polls on, or lets its worker sleep.
//!
//! A device wakes its worker by receive interrupts, or, where it lies on an interface of the
//! kernel's, by the driver's own sockets, which are readable when there are frames. A device that
//! has neither is looked at again and again, after a time that grows with how long nothing came, so
//! that a packet waits for a small share of the pause before it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dpdk_sys as sys;
use rustix::event::{Timespec, epoll};

use crate::{Idle, log};

/// How long a port polls on after its last packet.
const POLL: Duration = Duration::from_micros(20);
/// A sleep with nobody to end it is this part of the time in which nothing came.
const SHARE: u32 = 8;
/// The longest of them.
const LONGEST: Duration = Duration::from_millis(1);
/// When a sleeping port looks after its device.
pub(crate) const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Some drivers switch the interrupts of all queues by one register: one thread at a time.
static SWITCHES: Mutex<()> = Mutex::new(());

/// See the module.
#[derive(Debug)]
pub(crate) struct Idling {
    /// None: `Sleep` if the device can wake its worker, else `Poll`.
    wanted: Option<Idle>,
    mode: Idle,
    /// Since when nothing has come.
    since: Option<Instant>,
    waker: Option<Waker>,
    /// When the device was looked after at last.
    pub(crate) looked: Instant,
}

/// What the port tells its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Ask again after this time.
    Again(Duration),
    /// The waker was set this moment: look once more, then sleep.
    LookOnceMore,
    /// Sleep until the waker says something.
    Sleep,
}

impl Idling {
    pub(crate) fn new(wanted: Option<Idle>) -> Self {
        let mode = wanted.unwrap_or(Idle::Poll);
        Self { wanted, mode, since: None, waker: None, looked: Instant::now() }
    }

    /// Takes what can wake the worker: the sockets of its queues, or their interrupts. The device
    /// was started.
    pub(crate) fn take_waker(&mut self, number: u16, queues: &[u16], sockets: &[BorrowedFd<'_>]) {
        if self.wanted != Some(Idle::Poll) {
            self.waker =
                Waker::of_sockets(sockets).or_else(|| Waker::of_interrupts(number, queues));
            if self.wanted.is_none() && self.waker.is_some() {
                self.mode = Idle::Sleep;
            }
        }
    }

    /// What is done when nothing comes in, for people.
    pub(crate) fn name(&self) -> &'static str {
        match (self.mode, self.waker.as_ref().map(|waker| &waker.source)) {
            (Idle::Poll, _) => "poll",
            (Idle::Sleep, None) => "sleep, at most 1 ms",
            (Idle::Sleep, Some(Source::Sockets)) => "sleep until a packet",
            (Idle::Sleep, Some(Source::Interrupts { .. })) => "sleep until an interrupt",
        }
    }

    /// Packets came in.
    #[inline]
    pub(crate) fn over(&mut self) {
        self.since = None;
        if let Some(waker) = &mut self.waker
            && waker.on
        {
            waker.switch_off();
        }
    }

    /// Nothing came in.
    pub(crate) fn nothing(&mut self) -> Advice {
        if self.mode == Idle::Poll {
            return Advice::Again(Duration::ZERO);
        }
        let quiet = self.since.get_or_insert_with(Instant::now).elapsed();
        if quiet < POLL {
            return Advice::Again(Duration::ZERO);
        }
        match &mut self.waker {
            None => Advice::Again((quiet / SHARE).min(LONGEST)),
            Some(waker) if waker.on => Advice::Sleep,
            Some(waker) => {
                if waker.switch_on() {
                    return Advice::LookOnceMore;
                }
                self.waker = None;
                Advice::Again(LONGEST)
            }
        }
    }

    /// Called before the worker sleeps. The answer is when the port has to be asked again, if it
    /// sleeps at all.
    pub(crate) fn settle(&mut self) -> Option<Duration> {
        if self.mode == Idle::Poll {
            return None;
        }
        if let Some(waker) = self.waker.as_mut().filter(|waker| waker.on)
            && waker.has_spoken()
        {
            // Since the last look.
            waker.switch_off();
            return Some(Duration::ZERO);
        }
        Some(LOOK_AFTER)
    }

    /// What is readable when packets come, if the worker can sleep on it.
    pub(crate) fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        fds.extend(self.waker.iter().filter(|waker| waker.on).map(|waker| waker.epoll.as_fd()));
    }

    /// Lets go of the waker. Before the device is closed, or when it has gone by itself.
    pub(crate) fn close(&mut self, gone: bool) {
        if let Some(mut waker) = self.waker.take()
            && gone
        {
            // Its number may be another device's by now.
            (waker.on, waker.source) = (false, Source::Sockets);
        }
    }
}

/// What is readable when packets have come: an epoll(7) over what the device has.
#[derive(Debug)]
struct Waker {
    epoll: OwnedFd,
    source: Source,
    on: bool,
}

#[derive(Debug)]
enum Source {
    /// Of some queues of a device. One comes after each time that they were switched on.
    Interrupts { number: u16, queues: Vec<u16> },
    /// They are readable as long as there are frames.
    Sockets,
}

impl Waker {
    /// None: there are no sockets.
    fn of_sockets(sockets: &[BorrowedFd<'_>]) -> Option<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).ok()?;
        for socket in sockets {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&epoll, socket, data, epoll::EventFlags::IN).ok()?;
        }
        (!sockets.is_empty()).then_some(Self { epoll, source: Source::Sockets, on: false })
    }

    /// None: the driver has none.
    fn of_interrupts(number: u16, queues: &[u16]) -> Option<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).ok()?;
        let fd = epoll.as_raw_fd();
        let mut waker =
            Self { epoll, source: Source::Interrupts { number, queues: Vec::new() }, on: false };
        for (place, &queue) in queues.iter().enumerate() {
            // SAFETY: [Q]: started, and the queues are the caller's; the device is closed behind
            // `drop`.
            let added = log::quietly(|| unsafe { sys::weir_dpdk_interrupt_add(number, queue, fd) });
            if added < 0 {
                return None;
            }
            waker.source = Source::Interrupts { number, queues: queues[..=place].to_vec() };
        }
        // Some have a descriptor, and no means to switch it on.
        let works = waker.switch_on();
        waker.switch_off();
        works.then_some(waker)
    }

    fn switch_on(&mut self) -> bool {
        self.on = true;
        let Source::Interrupts { number, queues } = &self.source else { return true };
        let _one = SWITCHES.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: [Q]: started, and its queues are used by the caller's thread alone.
        queues.iter().all(|queue| unsafe { sys::weir_dpdk_interrupt_on(*number, *queue) } >= 0)
    }

    #[cold]
    fn switch_off(&mut self) {
        self.on = false;
        if let Source::Interrupts { number, queues } = &self.source {
            let one = SWITCHES.lock().unwrap_or_else(PoisonError::into_inner);
            for queue in queues {
                // SAFETY: [Q]: as in `switch_on`.
                unsafe { sys::weir_dpdk_interrupt_off(*number, *queue) };
            }
            drop(one);
            self.has_spoken();
        }
    }

    /// Whether there is something, or was an interrupt; that is forgotten.
    fn has_spoken(&self) -> bool {
        match self.source {
            Source::Sockets => {
                let mut buffer = [MaybeUninit::uninit(); 1];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                epoll::wait(&self.epoll, &mut buffer, Some(&now))
                    .is_ok_and(|(ready, _)| !ready.is_empty())
            }
            // SAFETY: an epoll of ours that holds nothing but this device's interrupts.
            Source::Interrupts { .. } => unsafe {
                sys::weir_dpdk_interrupts_clear(self.epoll.as_raw_fd()) > 0
            },
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if self.on {
            self.switch_off();
        }
        let fd = self.epoll.as_raw_fd();
        if let Source::Interrupts { number, queues } = &self.source {
            for queue in queues {
                // SAFETY: [Q]: what was added; the device is not closed yet, and this thread uses
                // the queue.
                log::quietly(|| unsafe { sys::weir_dpdk_interrupt_remove(*number, *queue, fd) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_with_the_pause_and_end_with_packets() {
        let mut idling = Idling::new(Some(Idle::Sleep));
        // It polls on for a while, which may be over on a busy machine; then it sleeps for as short
        // as that.
        let short = |advice| matches!(advice, Advice::Again(pause) if pause < LONGEST);
        assert!(short(idling.nothing()));
        std::thread::sleep(Duration::from_micros(200));
        let Advice::Again(first) = idling.nothing() else { panic!() };
        assert!(first >= Duration::from_micros(25) && first <= LONGEST, "{first:?}");
        std::thread::sleep(Duration::from_millis(8));
        assert_eq!(idling.nothing(), Advice::Again(LONGEST));
        idling.over();
        assert!(short(idling.nothing()));
        for polls in [Some(Idle::Poll), None] {
            let mut polling = Idling::new(polls);
            polling.nothing();
            std::thread::sleep(Duration::from_micros(200));
            assert_eq!(polling.nothing(), Advice::Again(Duration::ZERO), "nothing can wake it");
        }
    }

    #[test]
    fn a_socket_wakes_as_long_as_there_is_something() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut idling = Idling::new(None);
        idling.take_waker(0, &[0], &[ours.as_fd()]);
        assert_eq!(idling.name(), "sleep until a packet");
        idling.nothing();
        std::thread::sleep(Duration::from_micros(50));
        assert_eq!(idling.nothing(), Advice::LookOnceMore);
        assert_eq!(idling.nothing(), Advice::Sleep);
        assert_eq!(idling.settle(), Some(LOOK_AFTER));
        let mut fds = Vec::new();
        idling.readiness(&mut fds);
        assert_eq!(fds.len(), 1);
        drop(fds);
        theirs.send(b"x").unwrap();
        assert_eq!(idling.settle(), Some(Duration::ZERO), "it came before the sleep");
        assert_eq!(idling.nothing(), Advice::LookOnceMore);
        ours.recv(&mut [0; 1]).unwrap();
        idling.over();
        let mut fds = Vec::new();
        idling.readiness(&mut fds);
        assert!(fds.is_empty(), "nobody waits while packets come");
    }
}
