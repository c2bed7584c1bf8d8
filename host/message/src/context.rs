//! What a message function asks for while it runs: noted here, carried out when its event has
//! returned.
//!
//! Owns: the rooms that the function allocated, and the effects of the event that runs. A function
//! may ask something for the exchange that it was called for, and outside of exchanges for nobody;
//! everything else is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use weir_exchange::{Pieces, Upstreams};
use weir_layout::Verdict;
use weir_pool::{Part, Room, Rooms};
use weir_sandbox::{CopiedAnswer, Exchanges, LaidMessage, Refusal, Rejection, Requests, Span};

use crate::bodies::let_go;
use crate::head;
use crate::store::{Stored, Values};

/// The exchange of what is asked outside of exchanges.
pub const NOBODY: u32 = u32::MAX;

/// Calls, values and waits that one event may ask for.
const ASKS_MAX: usize = 64;
/// Those that an instance may wait for at the same time, in all its exchanges and outside of them.
/// Each takes some hundred bytes of the host's own memory.
const OPEN_MAX: usize = 4096;

/// What an event asked for.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// The upstream.
    pub(crate) route: Option<usize>,
    /// The function's own answer.
    pub(crate) answer: Option<http::Response<Pieces>>,
    /// What it wants to be resumed with.
    pub(crate) asks: Vec<Ask>,
}

/// Something that a function is resumed with when it is there.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Its token.
    pub(crate) token: u32,
    /// What it is.
    pub(crate) what: Asked,
    /// It is under way until this is dropped.
    pub(crate) open: Open,
}

/// Something that an instance waits for: it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_more(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What can be asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A request to an upstream.
    Call {
        /// Its number.
        upstream: usize,
        /// What is sent.
        request: Box<http::Request<Pieces>>,
        /// How long it may take.
        timeout: Duration,
    },
    /// A value of the store.
    Value(Stored),
    /// A time to wait.
    Sleep(Duration),
}

/// See the module.
pub(crate) struct Context {
    rooms: Rooms,
    /// By their offsets in the window.
    owned: HashMap<u32, Room>,
    /// Most rooms that the function may own.
    share: usize,
    /// The exchange that it was called for.
    exchange: u32,
    /// Most events ask for nothing.
    effects: Option<Box<Effects>>,
    /// How much it waits for.
    open: Arc<AtomicUsize>,
    next_token: u32,
    upstreams: Arc<dyn Upstreams>,
    store: Values,
}

impl Context {
    pub(crate) fn new(
        rooms: Rooms,
        share: usize,
        upstreams: Arc<dyn Upstreams>,
        store: Values,
    ) -> Self {
        let (owned, effects, open) = (HashMap::new(), None, Arc::default());
        let (exchange, next_token) = (NOBODY, 1);
        Self { rooms, owned, share, exchange, effects, open, next_token, upstreams, store }
    }

    /// An event for this exchange begins.
    pub(crate) fn begin(&mut self, exchange: u32) {
        self.exchange = exchange;
    }

    /// It has ended: what it asked for.
    pub(crate) fn end(&mut self) -> Option<Box<Effects>> {
        self.exchange = NOBODY;
        self.effects.take()
    }

    fn effects(&mut self) -> &mut Effects {
        self.effects.get_or_insert_default()
    }

    /// Whether an event has asked for as much as it may, or the instance waits for as much.
    fn asked_enough(&self) -> bool {
        self.effects.as_ref().is_some_and(|effects| effects.asks.len() >= ASKS_MAX)
            || self.open.load(Relaxed) >= OPEN_MAX
    }

    fn check(&self, exchange: u32) -> Result<(), Refusal> {
        if exchange == self.exchange { Ok(()) } else { Err(Refusal::NotOwned) }
    }

    fn upstream(&self, upstream: u32) -> Result<usize, Refusal> {
        let upstream = upstream as usize;
        if upstream < self.upstreams.count() { Ok(upstream) } else { Err(Refusal::BadVerdict) }
    }

    fn ask(&mut self, what: Asked) -> Result<u32, Refusal> {
        if self.asked_enough() {
            return Err(Refusal::Exhausted);
        }
        let open = Open::one_more(&self.open);
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1).max(1);
        self.effects().asks.push(Ask { token, what, open });
        Ok(token)
    }

    /// The start of the room that the function owns and that this byte lies in.
    fn room_of(&self, offset: u32) -> Result<u32, Refusal> {
        let pool = self.rooms.lock();
        let index = pool.index_of(offset).ok_or(Refusal::OutOfBounds)?;
        let start = pool.room_offset(index);
        drop(pool);
        if self.owned.contains_key(&start) { Ok(start) } else { Err(Refusal::NotOwned) }
    }

    /// Takes a head and a body's pieces out of the function's rooms: all of them, or none. The
    /// head's room goes back to the pool when `read` has read it.
    fn hand_over<T>(
        &mut self,
        laid: &LaidMessage,
        read: impl FnOnce(&[u8]) -> Result<T, head::Broken>,
    ) -> Result<(T, Pieces), Rejection> {
        let start = self.room_of(laid.head)?;
        if start != laid.head {
            return Err(Refusal::OutOfBounds.into());
        }
        let mut starts = Vec::with_capacity(laid.body.len());
        for Span { offset, length } in &laid.body {
            let room = self.room_of(*offset)?;
            let end = u64::from(*offset) + u64::from(*length);
            if end > u64::from(room) + self.rooms.room_bytes() as u64 {
                return Err(Refusal::OutOfBounds.into());
            }
            if room == start || starts.contains(&room) {
                return Err(Refusal::NotOwned.into());
            }
            starts.push(room);
        }
        let Some(room) = self.owned.get(&start) else { return Err(Refusal::NotOwned.into()) };
        // A copy, which stays as it was looked at.
        let head = head::used(room.bytes()).map(<[u8]>::to_vec);
        let value = head.and_then(|head| read(&head));
        let value = value.map_err(|broken| unusable(broken.to_string()))?;
        self.owned.remove(&start);
        let pieces = laid.body.iter().zip(starts).filter_map(|(span, start)| {
            let from = (span.offset - start) as usize;
            let room = self.owned.remove(&start)?;
            Some(let_go(&self.rooms, room.part(from..from + span.length as usize)))
        });
        Ok((value, pieces.filter(|piece| !piece.is_empty()).collect()))
    }
}

impl Requests for Context {
    fn now(&mut self) -> u64 {
        crate::clock::monotonic()
    }

    fn allocate(&mut self, _function: usize, length: u32) -> Option<u32> {
        if length as usize > self.rooms.room_bytes() || self.owned.len() >= self.share {
            return None;
        }
        let room = self.rooms.take()?;
        let offset = room.offset();
        self.owned.insert(offset, room);
        Some(offset)
    }

    fn send(&mut self, _: usize, offset: u32, _: u32, verdict: u32) -> Result<(), Refusal> {
        if !matches!(Verdict::decode(verdict), Some(Verdict::Drop(_))) {
            return Err(Refusal::BadVerdict);
        }
        self.owned.remove(&offset).map(drop).ok_or(Refusal::NotOwned)
    }

    fn send_copy(&mut self, _: usize, _: &[u8], _: u32) -> Result<(), Refusal> {
        Err(Refusal::BadVerdict)
    }
}

impl Exchanges for Context {
    fn route(&mut self, exchange: u32, upstream: u32) -> Result<(), Refusal> {
        self.check(exchange)?;
        let upstream = self.upstream(upstream)?;
        self.effects().route = Some(upstream);
        Ok(())
    }

    fn healthy(&mut self, upstream: u32) -> bool {
        self.upstream(upstream).is_ok_and(|upstream| self.upstreams.healthy(upstream))
    }

    fn active(&mut self, upstream: u32) -> u32 {
        self.upstream(upstream).map_or(0, |upstream| self.upstreams.active(upstream))
    }

    fn answer(&mut self, exchange: u32, answer: LaidMessage) -> Result<(), Rejection> {
        self.check(exchange)?;
        let (parts, pieces) = self.hand_over(&answer, head::new_response)?;
        self.effects().answer = Some(http::Response::from_parts(parts, pieces));
        Ok(())
    }

    fn answer_copy(&mut self, exchange: u32, answer: CopiedAnswer) -> Result<(), Rejection> {
        self.check(exchange)?;
        // As much of a head as one that lies in a room may be.
        let head: usize = answer.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if head > self.rooms.room_bytes() {
            return Err(unusable(format!(
                "its fields have {head} bytes: allowed are as many as a room has, {}",
                self.rooms.room_bytes()
            )));
        }
        self.effects().answer = Some(response_of(answer).map_err(unusable)?);
        Ok(())
    }

    fn call(
        &mut self,
        exchange: u32,
        to: u32,
        request: LaidMessage,
        ms: u32,
    ) -> Result<u32, Refusal> {
        self.check(exchange)?;
        let upstream = self.upstream(to)?;
        if self.asked_enough() {
            return Err(Refusal::Exhausted);
        }
        let made = self.hand_over(&request, head::new_request);
        let (parts, pieces) = made.map_err(|denied| denied.refusal)?;
        let request = Box::new(http::Request::from_parts(parts, pieces));
        let timeout = Duration::from_millis(u64::from(ms.max(1)));
        self.ask(Asked::Call { upstream, request, timeout })
    }

    fn store_get(&mut self, exchange: u32, key: &[u8]) -> Result<u32, Refusal> {
        self.check(exchange)?;
        if self.asked_enough() {
            return Err(Refusal::Exhausted);
        }
        let value = self.store.get(key).ok_or(Refusal::Exhausted)?;
        self.ask(Asked::Value(value))
    }

    fn store_set(&mut self, key: &[u8], value: &[u8], milliseconds: u64) -> Result<(), Refusal> {
        if value.len() > self.rooms.room_bytes() {
            return Err(Refusal::OutOfBounds);
        }
        let set = self.store.set(key, value, lives(milliseconds));
        set.ok_or(Refusal::Exhausted)
    }

    fn store_add(&mut self, exchange: u32, key: &[u8], add: i64, ms: u64) -> Result<u32, Refusal> {
        self.check(exchange)?;
        if self.asked_enough() {
            return Err(Refusal::Exhausted);
        }
        let sum = self.store.add(key, add, lives(ms)).ok_or(Refusal::Exhausted)?;
        self.ask(Asked::Value(sum))
    }

    fn sleep(&mut self, exchange: u32, nanoseconds: u64) -> Result<u32, Refusal> {
        self.check(exchange)?;
        self.ask(Asked::Sleep(Duration::from_nanos(nanoseconds)))
    }
}

/// What the function wrote is no message. Of what is told of it, its log gets a line's length.
fn unusable(mut why: String) -> Rejection {
    const WHY_MAX: usize = 256;
    why.truncate(why.floor_char_boundary(WHY_MAX));
    Rejection { refusal: Refusal::OutOfBounds, why }
}

/// An answer that was copied; or what is wrong with it.
fn response_of(answer: CopiedAnswer) -> Result<http::Response<Pieces>, String> {
    let mut headers = HeaderMap::with_capacity(answer.fields.len());
    for (name, value) in &answer.fields {
        let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(format!("{name:?} is no name of a field"));
        };
        let Ok(value) = HeaderValue::from_str(value) else {
            return Err(format!(
                "the value of the field {name} has bytes that are not allowed there"
            ));
        };
        headers.append(known, value);
    }
    let status = StatusCode::from_u16(answer.status).ok();
    let Some(status) = status.filter(|status| (200..600).contains(&status.as_u16())) else {
        return Err(format!(
            "{} is no status of a response: allowed are 200 to 599",
            answer.status
        ));
    };
    let mut response = http::Response::new(Pieces::new());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if !answer.body.is_empty() {
        response.body_mut().push(Bytes::from(answer.body));
    }
    Ok(response)
}

fn lives(milliseconds: u64) -> Option<Duration> {
    (milliseconds != 0).then(|| Duration::from_millis(milliseconds))
}

/// Bytes as they are given to the function: a room's part.
pub(crate) fn into_room(rooms: &Rooms, bytes: &[u8]) -> Option<Part> {
    if bytes.len() > rooms.room_bytes() {
        return None;
    }
    let mut room = rooms.take()?;
    room.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    Some(room.part(0..bytes.len()))
}

#[cfg(test)]
mod tests {
    use weir_pool::{HugePages, Pool, PoolConfig};

    use super::*;
    use crate::store::Store;

    struct NoUpstreams;

    impl Upstreams for NoUpstreams {
        fn count(&self) -> usize {
            0
        }
        fn healthy(&self, _: usize) -> bool {
            false
        }
        fn active(&self, _: usize) -> u32 {
            0
        }
    }

    fn context() -> Context {
        let config = PoolConfig { rooms: 4, room_bytes: 1024, huge: HugePages::Never };
        let rooms = Rooms::new(Pool::new("rooms", &config).unwrap());
        let store = Values::Here(Arc::new(Store::new(1 << 16)));
        Context::new(rooms, 1, Arc::new(NoUpstreams), store)
    }

    #[test]
    fn an_instance_waits_for_so_much_at_the_same_time_and_no_more() {
        let mut context = context();
        let mut under_way = Vec::new();
        while under_way.len() < OPEN_MAX {
            context.begin(7);
            let asked = (0..100).filter(|_| context.sleep(7, 1).is_ok()).count();
            let left = OPEN_MAX - under_way.len();
            assert_eq!(asked, left.min(ASKS_MAX));
            under_way.extend(context.end().unwrap().asks);
        }
        context.begin(8);
        assert_eq!(context.sleep(8, 1), Err(Refusal::Exhausted));
        assert_eq!(context.store_get(8, b"key"), Err(Refusal::Exhausted));
        under_way.truncate(OPEN_MAX - 2);
        assert!(context.sleep(8, 1).is_ok() && context.store_get(8, b"key").is_ok());
        assert_eq!(context.sleep(8, 1), Err(Refusal::Exhausted));
    }

    #[test]
    fn an_answer_by_copy_has_a_head_as_long_as_one_in_a_room() {
        let mut context = context();
        context.begin(7);
        let answer = |length: usize| CopiedAnswer {
            status: 200,
            fields: vec![("x-a".into(), "a".repeat(500)), ("x-b".into(), "b".repeat(length))],
            body: Vec::new(),
        };
        let denied = context.answer_copy(7, answer(519)).unwrap_err();
        assert_eq!(denied.refusal, Refusal::OutOfBounds);
        assert!(denied.why.contains("1025 bytes"), "{}", denied.why);
        assert!(context.answer_copy(7, answer(518)).is_ok());
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_told() {
        let answer = |status, name: &str, value: &str| {
            let fields = vec![(name.to_owned(), value.to_owned())];
            response_of(CopiedAnswer { status, fields, body: Vec::new() })
                .map(|it| it.status().as_u16())
        };
        assert_eq!(answer(200, "x-good", "b"), Ok(200));
        assert_eq!(answer(200, "bad name", "b").unwrap_err(), "\"bad name\" is no name of a field");
        let value = answer(200, "x-good", "b\n").unwrap_err();
        assert_eq!(value, "the value of the field x-good has bytes that are not allowed there");
        let status = answer(42, "x-good", "b").unwrap_err();
        assert_eq!(status, "42 is no status of a response: allowed are 200 to 599");
    }
}
