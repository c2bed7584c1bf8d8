//! The line to the gateway, and what the worker waits for: alarms, timers, answers.

use std::cell::{Cell, RefCell};
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::Response;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;
use weir_exchange::{CallFault, CallResult, Environment, Pieces};
use weir_hop::End;
use weir_message::{StoreRequest, head};

use crate::gateway::nowhere;
use crate::protocol as say;
use crate::protocol::{Message, PREFIX};
use crate::rings::{Breach, MESSAGE_MAX, Rings};

/// Longest piece of a message.
pub(super) const PIECE_MAX: usize = 64 << 10;

/// Wakes the first thread.
pub(super) struct Alarm {
    pub(super) bell: OwnedFd,
    pub(super) rung: AtomicBool,
    pub(super) asleep: AtomicBool,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, rung: AtomicBool::new(true), asleep: AtomicBool::new(false) })
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // It cannot be full.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// A time that somebody waits for; the earliest is the greatest.
pub(super) struct Timer {
    pub(super) at: Instant,
    pub(super) up: oneshot::Sender<()>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

/// The line to the gateway, as everything on the first thread has it.
pub(super) struct Line {
    pub(super) end: RefCell<End>,
    pub(super) rings: RefCell<Rings>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) calls: RefCell<HashMap<u32, oneshot::Sender<Message>>>,
    pub(super) next_call: Cell<u32>,
    pub(super) timers: RefCell<BinaryHeap<Timer>>,
    pub(super) spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    pub(super) broken: Cell<Option<Breach>>,
}

impl Line {
    pub(super) fn send(&self, message: Message) {
        let sent = self.rings.borrow_mut().send(&mut self.end.borrow_mut(), message);
        if let Err(breach) = sent {
            self.broken.set(Some(breach));
        }
    }

    pub(super) fn pieces(&self, message: &Message, pieces: impl IntoIterator<Item = Bytes>) {
        for mut piece in pieces {
            while !piece.is_empty() {
                let bytes = piece.split_to(piece.len().min(PIECE_MAX));
                self.send(Message { bytes, ..message.clone() });
            }
        }
    }

    /// Runs a task as far as it comes: most have nothing to wait for. The others go on in the loop.
    pub(super) fn run(&self, task: impl Future<Output = ()> + 'static) {
        let mut task = Box::pin(task);
        let nobody = &mut Context::from_waker(Waker::noop());
        // The loop asks it again before it waits for anything, with a waker that wakes.
        if task.as_mut().poll(nobody).is_pending() {
            self.spawn(task);
        }
    }

    pub(super) fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.spawned.borrow_mut().push(task);
        self.alarm.wake_by_ref();
    }

    /// A question that the gateway answers under a number.
    fn ask(&self) -> (u32, oneshot::Receiver<Message>) {
        let (answer, answered) = oneshot::channel();
        let mut calls = self.calls.borrow_mut();
        loop {
            let number = self.next_call.get();
            self.next_call.set(number.wrapping_add(1));
            if let std::collections::hash_map::Entry::Vacant(entry) = calls.entry(number) {
                entry.insert(answer);
                return (number, answered);
            }
        }
    }

    /// Asks the store.
    pub(super) fn store(&self, request: StoreRequest) {
        let milliseconds = |lives: Option<Duration>| {
            lives.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1))
        };
        let (a, key, value, lives, answer) = match request {
            StoreRequest::Get { key, answer } => {
                (say::STORE_GET, key, Bytes::new(), None, Some(answer))
            }
            StoreRequest::Set { key, value, lives } => (say::STORE_SET, key, value, lives, None),
            StoreRequest::Add { key, delta, lives, answer } => {
                let delta = Bytes::copy_from_slice(&delta.to_le_bytes());
                (say::STORE_ADD, key, delta, lives, Some(answer))
            }
        };
        let b = key.len() as u32;
        if PREFIX + key.len() + value.len() > MESSAGE_MAX {
            // Too long a key has no value.
            return answer.into_iter().for_each(|answer| drop(answer.send(None)));
        }
        let bytes = [key, value].concat().into();
        let mut message =
            Message { kind: say::STORE, a, b, c: milliseconds(lives), bytes, ..Message::default() };
        if let Some(answer) = answer {
            let (number, answered) = self.ask();
            message.exchange = number;
            self.spawn(Box::pin(async move {
                let value = answered.await.ok().filter(|said| said.a != 0);
                // Whoever asked may be gone.
                let _ = answer.send(value.map(|said| said.bytes));
            }));
        }
        self.send(message);
    }
}

/// The gateway as the chain asks it.
pub(super) struct Away(pub(super) Rc<Line>);

impl Environment for Away {
    fn call(
        &self,
        upstream: usize,
        request: http::Request<Pieces>,
        timeout: Duration,
        body_max: usize,
    ) -> LocalBoxFuture<'static, CallResult> {
        let (parts, pieces) = request.into_parts();
        let mut room = vec![0; PIECE_MAX];
        if head::lay_out_request(&mut room, &parts, &nowhere(), None).is_err() {
            return Box::pin(std::future::ready(Err(CallFault::NotHttp)));
        }
        let (number, answered) = self.0.ask();
        let used = head::length(&mut room);
        room.truncate(used);
        let piece = Message { exchange: number, kind: say::CALL_PIECE, ..Message::default() };
        self.0.pieces(&piece, pieces);
        self.0.send(Message {
            exchange: number,
            kind: say::CALL,
            a: upstream as u32,
            b: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            c: body_max as u64,
            bytes: room.into(),
        });
        Box::pin(async move {
            let Ok(mut said) = answered.await else { return Err(CallFault::Unreachable) };
            if said.a != 0 {
                return Err(say::fault(said.a));
            }
            let laid = said.bytes.split_to((said.b as usize).min(said.bytes.len()));
            let Ok(parts) = head::read_response(&laid) else { return Err(CallFault::NotHttp) };
            Ok(Response::from_parts(parts, said.bytes))
        })
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        let (up, over) = oneshot::channel();
        self.0.timers.borrow_mut().push(Timer { at: Instant::now() + time, up });
        Box::pin(async move {
            // The loop ends with everything that waits.
            let _ = over.await;
        })
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}
