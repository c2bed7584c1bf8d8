//! The host's side of the calls: Wasm imports, or natively the thread's test host.

#[cfg(target_arch = "wasm32")]
mod wasm;
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm::*;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::exchanges::{
    active, answer, answer_copy, call, healthy, route, sleep, store_add, store_get, store_set,
};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::host::*;
