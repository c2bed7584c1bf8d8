//! The imports, in the SDK's own types.

use std::cell::RefCell;

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

pub(crate) use imports::{allocate, counter_add, gauge_set, now, set_timer};

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
