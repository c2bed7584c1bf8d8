//! The `weir` program from outside, as operators and scripts use it.

mod commands;
mod functions;
mod host;
mod lifecycle;
