//! What is counted, written down and logged of connections and requests.

pub(crate) mod counters;
pub(crate) mod failure_lines;
pub(crate) mod record;
pub(crate) mod request_log;
pub(crate) mod statistics;
