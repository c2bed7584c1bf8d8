//! The interface `weir:net/exchange`: what message functions ask for. All of it is passed on to
//! [`Exchanges`], unseen.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, WasmList, WasmStr};

use crate::guest::Guest;
use crate::host::{Refusal, Requests};
use crate::telemetry::Level;

/// Import name of the interface.
pub(crate) const EXCHANGE_IMPORT: &str = "weir:net/exchange@0.1.0";

/// Bytes of a key of the store.
pub const KEY_MAX: usize = 256;
/// Bytes of a value, of a body, or of all names and values of a head that come by copy; what is
/// longer is refused.
const COPY_MAX: usize = 1 << 20;
/// Pieces of a body, and fields of a head, in one call.
const PIECES_MAX: usize = 4096;

/// Bytes of the window (WIT `span`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Span {
    /// First byte, from the window's start.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// A head and body that are handed over as they lie in the window.
#[derive(Clone, Debug)]
pub struct LaidMessage {
    /// Where the head is.
    pub head: u32,
    /// The body's pieces.
    pub body: Vec<Span>,
}

/// An answer that is copied.
#[derive(Clone, Debug)]
pub struct CopiedAnswer {
    /// Its status.
    pub status: u16,
    /// Names and values.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a head and body that a function made are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For the function.
    pub refusal: Refusal,
    /// For people: what is wrong with them.
    pub why: String,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let why = match refusal {
            Refusal::NotOwned => {
                "its exchange, or its rooms, are not those of the function's event"
            }
            Refusal::OutOfBounds => "it does not lie within the function's rooms",
            Refusal::Exhausted => "no event is under way",
            Refusal::BadVerdict => "there is no such upstream",
        };
        Self { refusal, why: why.into() }
    }
}

/// What the message plane does for functions while it runs them; the errors say why it does not,
/// and then nothing has happened.
#[expect(clippy::missing_errors_doc, reason = "said once for all")]
pub trait Exchanges: Requests {
    /// The exchange goes to this upstream.
    fn route(&mut self, exchange: u32, upstream: u32) -> Result<(), Refusal>;
    /// Whether the upstream may have requests.
    fn healthy(&mut self, upstream: u32) -> bool;
    /// What the upstream has to do now.
    fn active(&mut self, upstream: u32) -> u32;
    /// The function's answer, in its rooms.
    fn answer(&mut self, exchange: u32, answer: LaidMessage) -> Result<(), Rejection>;
    /// The function's answer, by copy.
    fn answer_copy(&mut self, exchange: u32, answer: CopiedAnswer) -> Result<(), Rejection>;
    /// A request of the function's own: its token.
    fn call(
        &mut self,
        exchange: u32,
        to: u32,
        request: LaidMessage,
        ms: u32,
    ) -> Result<u32, Refusal>;
    /// Reads from the store: a token.
    fn store_get(&mut self, exchange: u32, key: &[u8]) -> Result<u32, Refusal>;
    /// Writes to the store.
    fn store_set(&mut self, key: &[u8], value: &[u8], milliseconds: u64) -> Result<(), Refusal>;
    /// Adds to a number in the store: a token.
    fn store_add(&mut self, exchange: u32, key: &[u8], add: i64, ms: u64) -> Result<u32, Refusal>;
    /// Asks to be resumed after this time: a token.
    fn sleep(&mut self, exchange: u32, nanoseconds: u64) -> Result<u32, Refusal>;
}

/// Offers the interface to a store's only function.
///
/// # Errors
/// When the name is already defined in the linker.
pub fn link_exchange<S: Exchanges>(linker: &mut Linker<Guest<S>>) -> wasmtime::Result<()> {
    let mut host = linker.instance(EXCHANGE_IMPORT)?;
    type Context<'a, S> = StoreContextMut<'a, Guest<S>>;
    type Spans = WasmList<Span>;
    type Key = WasmList<u8>;
    host.func_wrap("route", |mut cx: Context<'_, S>, (exchange, upstream): (u32, u32)| {
        Ok((asked(&mut cx, |s| s.route(exchange, upstream)),))
    })?;
    host.func_wrap("healthy", |mut cx: Context<'_, S>, (upstream,): (u32,)| {
        Ok((cx.data_mut().services.as_mut().is_some_and(|s| s.healthy(upstream)),))
    })?;
    host.func_wrap("active", |mut cx: Context<'_, S>, (upstream,): (u32,)| {
        Ok((cx.data_mut().services.as_mut().map_or(0, |s| s.active(upstream)),))
    })?;
    host.func_wrap(
        "answer",
        |mut cx: Context<'_, S>, (exchange, head, body): (u32, u32, Spans)| {
            let told = match laid(&mut cx, head, &body)? {
                Some(answer) => asked(&mut cx, |s| s.answer(exchange, answer)),
                None => Err(too_long(body.len(), 0)),
            };
            Ok((told.map_err(|denied| deny(&mut cx, denied)),))
        },
    )?;
    host.func_wrap(
        "answer-copy",
        |mut cx: Context<'_, S>,
         (exchange, status, fields, body): (u32, u16, WasmList<(WasmStr, WasmStr)>, Key)| {
            if fields.len() > PIECES_MAX || body.len() > COPY_MAX {
                let denied = too_long(fields.len(), body.len());
                return Ok((Err(deny(&mut cx, denied)),));
            }
            let told = match strings(&mut cx, &fields)? {
                Ok(fields) => {
                    let answer =
                        CopiedAnswer { status, fields, body: body.as_le_slice(&cx).to_vec() };
                    asked(&mut cx, |s| s.answer_copy(exchange, answer))
                }
                Err(denied) => Err(denied),
            };
            Ok((told.map_err(|denied| deny(&mut cx, denied)),))
        },
    )?;
    host.func_wrap(
        "call",
        |mut cx: Context<'_, S>,
         (exchange, upstream, head, body, ms): (u32, u32, u32, Spans, u32)| {
            let Some(request) = laid(&mut cx, head, &body)? else {
                return Ok((Err(Refusal::OutOfBounds),));
            };
            Ok((asked(&mut cx, |s| s.call(exchange, upstream, request, ms)),))
        },
    )?;
    host.func_wrap("store-get", |mut cx: Context<'_, S>, (exchange, key): (u32, Key)| {
        let Some(key) = short(&cx, &key, KEY_MAX) else { return Ok((Err(Refusal::OutOfBounds),)) };
        Ok((asked(&mut cx, |s| s.store_get(exchange, &key)),))
    })?;
    host.func_wrap(
        "store-set",
        |mut cx: Context<'_, S>, (_, key, value, ms): (u32, Key, Key, u64)| {
            let (key, value) = (short(&cx, &key, KEY_MAX), short(&cx, &value, COPY_MAX));
            let (Some(key), Some(value)) = (key, value) else {
                return Ok((Err(Refusal::OutOfBounds),));
            };
            Ok((asked(&mut cx, |s| s.store_set(&key, &value, ms)),))
        },
    )?;
    host.func_wrap(
        "store-add",
        |mut cx: Context<'_, S>, (exchange, key, delta, ms): (u32, Key, i64, u64)| {
            let Some(key) = short(&cx, &key, KEY_MAX) else {
                return Ok((Err(Refusal::OutOfBounds),));
            };
            Ok((asked(&mut cx, |s| s.store_add(exchange, &key, delta, ms)),))
        },
    )?;
    host.func_wrap("sleep", |mut cx: Context<'_, S>, (exchange, nanoseconds): (u32, u64)| {
        Ok((asked(&mut cx, |s| s.sleep(exchange, nanoseconds)),))
    })
}

/// What the message plane says to a request; outside of events it has lent nothing, and the
/// function gets nothing.
fn asked<S: Exchanges, T, E: From<Refusal>>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    ask: impl FnOnce(&mut S) -> Result<T, E>,
) -> Result<T, E> {
    cx.data_mut().services.as_mut().map_or(Err(Refusal::Exhausted.into()), ask)
}

/// An answer is not taken: the client sees that as a reset, so the function's log says why.
fn deny<S: Exchanges>(cx: &mut StoreContextMut<'_, Guest<S>>, denied: Rejection) -> Refusal {
    let text = format!("an answer of it is refused: {}", denied.why);
    cx.data_mut().log(0, Level::Warn, &text);
    denied.refusal
}

fn too_long(pieces: usize, bytes: usize) -> Rejection {
    let why = format!(
        "it has {pieces} fields or pieces and {bytes} bytes by copy; allowed are {PIECES_MAX} and {COPY_MAX}"
    );
    Rejection { refusal: Refusal::OutOfBounds, why }
}

/// A head and body as the function told them; none if they are too many pieces.
fn laid<S: Exchanges>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    head: u32,
    body: &WasmList<Span>,
) -> wasmtime::Result<Option<LaidMessage>> {
    if body.len() > PIECES_MAX {
        return Ok(None);
    }
    let body = body.iter(cx)?.collect::<wasmtime::Result<_>>()?;
    Ok(Some(LaidMessage { head, body }))
}

/// Names and values of a head's fields, unless they are too many bytes. They may all lie in the
/// same memory of the guest, which its limit does not bound then: each is looked at before it is
/// copied.
fn strings<S: Exchanges>(
    cx: &mut StoreContextMut<'_, Guest<S>>,
    fields: &WasmList<(WasmStr, WasmStr)>,
) -> wasmtime::Result<Result<Vec<(String, String)>, Rejection>> {
    let fields = fields.iter(&mut *cx)?.collect::<wasmtime::Result<Vec<_>>>()?;
    let (mut copies, mut bytes) = (Vec::with_capacity(fields.len()), 0);
    for (name, value) in &fields {
        let (name, value) = (name.to_str(&*cx)?, value.to_str(&*cx)?);
        bytes += name.len() + value.len();
        if bytes > COPY_MAX {
            return Ok(Err(too_long(fields.len(), bytes)));
        }
        copies.push((name.into_owned(), value.into_owned()));
    }
    Ok(Ok(copies))
}

/// A copy of bytes that are not too many.
fn short<S: Exchanges>(
    cx: &StoreContextMut<'_, Guest<S>>,
    bytes: &WasmList<u8>,
    most: usize,
) -> Option<Vec<u8>> {
    (bytes.len() <= most).then(|| bytes.as_le_slice(cx).to_vec())
}
