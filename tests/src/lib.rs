//! What the end-to-end tests share. Owns: guests written by hand in WAT, functions as they are
//! built, the laboratory of network namespaces, Weir in a guest, heads that a hostile function
//! writes, and the smallest packet plane that a chain can be tested with. Must not know: what any
//! single test is about.

pub mod bench_plane;
pub mod built;
pub mod heads;
pub mod in_guest;
pub mod lab;
pub mod rig;
pub mod wat_guest;
