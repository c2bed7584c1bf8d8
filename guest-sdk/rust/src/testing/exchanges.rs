//! What the thread's test host does for message functions.
//!
//! Owns: routes, answers, calls, the store and timers, in the order in which they were asked for.
//! Must not know: events.

use std::collections::{BTreeMap, VecDeque};

use super::host::{TestHost, with};
use super::message::Message;
use crate::host::Refusal;

/// What a function asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Call {
        upstream: u32,
        request: Message,
        timeout_milliseconds: u32,
    },
    /// The store's answer, known at once.
    Value(Option<Vec<u8>>),
    Sleep {
        until: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) token: u32,
    pub(super) exchange: u32,
    pub(super) wish: Wish,
}

/// The part of the test host that message functions use.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    pub(super) unhealthy: Vec<u32>,
    pub(super) active: BTreeMap<u32, u32>,
    pub(super) routes: BTreeMap<u32, u32>,
    pub(super) answers: BTreeMap<u32, Message>,
    pub(super) asked: VecDeque<Asked>,
    /// Values, and when they expire.
    pub(super) store: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
    /// The last token that was given.
    pub(super) tokens: u32,
}

const KEY_MAX: usize = 256;

impl TestHost {
    fn ask(&mut self, exchange: u32, wish: Wish) -> u32 {
        self.exchanges.tokens += 1;
        let token = self.exchanges.tokens;
        self.exchanges.asked.push_back(Asked { token, exchange, wish });
        token
    }

    /// Takes a message that the function laid out, and its rooms.
    fn take(&mut self, head: u32, body: &[(u32, u32)]) -> Result<Message, Refusal> {
        let room_bytes = self.window.as_ref().map_or(0, |(window, _)| window.room_bytes());
        let rooms: Vec<(u32, u32, u32)> = [(head, 0)]
            .iter()
            .chain(body)
            .map(|&(at, length)| {
                let room = self.room(at).filter(|room| self.owned.contains(room));
                let room = room.ok_or(Refusal::NotOwned)?;
                let inside = length <= room_bytes - (at - room);
                inside.then_some((room, at, length)).ok_or(Refusal::OutOfBounds)
            })
            .collect::<Result<_, _>>()?;
        let rest = room_bytes - (head & (room_bytes - 1));
        let bytes = self.read(weir_layout::Descriptor { offset: head, length: rest });
        let mut message = Message::read(&bytes);
        for (_, offset, length) in &rooms[1..] {
            let (offset, length) = (*offset, *length);
            message.body.extend(self.read(weir_layout::Descriptor { offset, length }));
        }
        for (room, ..) in rooms {
            self.owned.remove(&room);
            self.free.push(room);
        }
        Ok(message)
    }

    fn value(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let now = self.now;
        let (value, expires) = self.exchanges.store.get(key)?;
        expires.is_none_or(|at| at > now).then(|| value.clone())
    }

    fn expiry(&self, milliseconds: u64) -> Option<u64> {
        (milliseconds > 0).then(|| self.now + milliseconds * 1_000_000)
    }

    fn upstream(&self, upstream: u32) -> Result<(), Refusal> {
        ((upstream as usize) < self.ports).then_some(()).ok_or(Refusal::BadVerdict)
    }

    fn answered(&mut self, exchange: u32, answer: Message) -> Result<(), Refusal> {
        assert!((200..=599).contains(&answer.status), "{} is no status", answer.status);
        let earlier = self.exchanges.answers.insert(exchange, answer);
        assert!(earlier.is_none(), "exchange {exchange} was answered twice");
        Ok(())
    }
}

pub(crate) fn healthy(upstream: u32) -> bool {
    with(|host| (upstream as usize) < host.ports && !host.exchanges.unhealthy.contains(&upstream))
}

pub(crate) fn active(upstream: u32) -> u32 {
    with(|host| host.exchanges.active.get(&upstream).copied().unwrap_or(0))
}

pub(crate) fn route(exchange: u32, upstream: u32) -> Result<(), Refusal> {
    with(|host| {
        host.upstream(upstream)?;
        host.exchanges.routes.insert(exchange, upstream);
        Ok(())
    })
}

pub(crate) fn answer(exchange: u32, head: u32, body: &[(u32, u32)]) -> Result<(), Refusal> {
    with(|host| {
        let answer = host.take(head, body)?;
        host.answered(exchange, answer)
    })
}

pub(crate) fn answer_copy(exchange: u32, status: u16) -> Result<(), Refusal> {
    with(|host| host.answered(exchange, Message::response(status)))
}

pub(crate) fn call(
    exchange: u32,
    upstream: u32,
    head: u32,
    body: &[(u32, u32)],
    timeout_milliseconds: u32,
) -> Result<u32, Refusal> {
    with(|host| {
        host.upstream(upstream)?;
        let request = host.take(head, body)?;
        Ok(host.ask(exchange, Wish::Call { upstream, request, timeout_milliseconds }))
    })
}

pub(crate) fn store_get(exchange: u32, key: &[u8]) -> Result<u32, Refusal> {
    with(|host| {
        check_key(key)?;
        let value = host.value(key);
        Ok(host.ask(exchange, Wish::Value(value)))
    })
}

pub(crate) fn store_set(
    _: u32,
    key: &[u8],
    value: &[u8],
    milliseconds: u64,
) -> Result<(), Refusal> {
    with(|host| {
        check_key(key)?;
        let expires = host.expiry(milliseconds);
        host.exchanges.store.insert(key.to_vec(), (value.to_vec(), expires));
        Ok(())
    })
}

pub(crate) fn store_add(
    exchange: u32,
    key: &[u8],
    delta: i64,
    milliseconds: u64,
) -> Result<u32, Refusal> {
    with(|host| {
        check_key(key)?;
        let known = host.value(key);
        let before = known.as_ref().and_then(|value| value.first_chunk().copied());
        let sum = before.map_or(0, i64::from_le_bytes).wrapping_add(delta).to_le_bytes().to_vec();
        let expires = match known {
            Some(_) => host.exchanges.store[key].1,
            None => host.expiry(milliseconds),
        };
        host.exchanges.store.insert(key.to_vec(), (sum.clone(), expires));
        Ok(host.ask(exchange, Wish::Value(Some(sum))))
    })
}

pub(crate) fn sleep(exchange: u32, nanoseconds: u64) -> Result<u32, Refusal> {
    with(|host| {
        let until = host.now.saturating_add(nanoseconds);
        Ok(host.ask(exchange, Wish::Sleep { until }))
    })
}

fn check_key(key: &[u8]) -> Result<(), Refusal> {
    (key.len() <= KEY_MAX).then_some(()).ok_or(Refusal::OutOfBounds)
}
