//! The port on real interfaces: veth pairs in a network namespace of the test's own. The far end of
//! a pair is an AF_PACKET socket, which knows nothing of XDP.
//!
//! Needs root, and `ip` of iproute2.

mod far;
mod moving;
mod refusals;
mod steering;
