//! The imports, in the SDK's own types.

use std::cell::RefCell;

use crate::export::bindings::messages::weir::net::exchange as exchanges;
use crate::export::bindings::weir::net::host as imports;
use crate::export::bindings::weir::net::types;
use crate::host::{Level, Refusal};
use crate::window::Window;

thread_local! {
    static WINDOW: RefCell<Option<Window>> = const { RefCell::new(None) };
}

pub(crate) fn set_window(window: Window) {
    WINDOW.set(Some(window));
}

pub(crate) fn window() -> Option<Window> {
    WINDOW.with_borrow(Clone::clone)
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => types::Level::Trace,
        Level::Debug => types::Level::Debug,
        Level::Info => types::Level::Info,
        Level::Warn => types::Level::Warn,
        Level::Error => types::Level::Error,
    };
    imports::log(level, message);
}

pub(crate) use imports::{allocate, counter_add, gauge_set, now, random, set_timer};

pub(crate) fn send(offset: u32, length: u32, verdict: u32) -> Result<(), Refusal> {
    imports::send(offset, length, verdict).map_err(refusal)
}

pub(crate) fn send_copy(packet: &[u8], verdict: u32) -> Result<(), Refusal> {
    imports::send_copy(packet, verdict).map_err(refusal)
}

fn refusal(refusal: types::Refusal) -> Refusal {
    match refusal {
        types::Refusal::NotOwned => Refusal::NotOwned,
        types::Refusal::OutOfBounds => Refusal::OutOfBounds,
        types::Refusal::BadVerdict => Refusal::BadVerdict,
        types::Refusal::Exhausted => Refusal::Exhausted,
    }
}

pub(crate) use exchanges::{active, healthy};

pub(crate) fn route(exchange: u32, upstream: u32) -> Result<(), Refusal> {
    exchanges::route(exchange, upstream).map_err(refusal)
}

fn spans(body: &[(u32, u32)]) -> Vec<exchanges::Span> {
    body.iter().map(|&(offset, length)| exchanges::Span { offset, length }).collect()
}

pub(crate) fn answer(exchange: u32, head: u32, body: &[(u32, u32)]) -> Result<(), Refusal> {
    exchanges::answer(exchange, head, &spans(body)).map_err(refusal)
}

pub(crate) fn answer_copy(exchange: u32, status: u16) -> Result<(), Refusal> {
    exchanges::answer_copy(exchange, status, &[], &[]).map_err(refusal)
}

pub(crate) fn call(
    exchange: u32,
    upstream: u32,
    head: u32,
    body: &[(u32, u32)],
    timeout_milliseconds: u32,
) -> Result<u32, Refusal> {
    exchanges::call(exchange, upstream, head, &spans(body), timeout_milliseconds).map_err(refusal)
}

pub(crate) fn store_get(exchange: u32, key: &[u8]) -> Result<u32, Refusal> {
    exchanges::store_get(exchange, key).map_err(refusal)
}

pub(crate) fn store_set(
    exchange: u32,
    key: &[u8],
    value: &[u8],
    milliseconds: u64,
) -> Result<(), Refusal> {
    exchanges::store_set(exchange, key, value, milliseconds).map_err(refusal)
}

pub(crate) fn store_add(
    exchange: u32,
    key: &[u8],
    delta: i64,
    milliseconds: u64,
) -> Result<u32, Refusal> {
    exchanges::store_add(exchange, key, delta, milliseconds).map_err(refusal)
}

pub(crate) fn sleep(exchange: u32, nanoseconds: u64) -> Result<u32, Refusal> {
    exchanges::sleep(exchange, nanoseconds).map_err(refusal)
}
