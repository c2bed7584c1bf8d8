//! The WIT that this host speaks.

use wit_parser::{PackageId, Resolve, SourceMap, WorldId};

use crate::Error;

/// The package that functions are built for.
pub const PACKAGE: &str = "weir:net@0.1.0";

/// The worlds of [`PACKAGE`].
pub const WORLDS: [&str; 10] = [
    "packet-function",
    "packet-function-saving",
    "packet-function-copy",
    "packet-function-copy-saving",
    "packet-function-burst",
    "packet-function-burst-saving",
    "message-function",
    "message-function-saving",
    "connection-function",
    "connection-function-saving",
];

/// The files of [`PACKAGE`], as they are in the tree.
const FILES: [(&str, &str); 2] = [
    ("net.wit", include_str!("../../../wit/net.wit")),
    ("message.wit", include_str!("../../../wit/message.wit")),
];

/// The package, parsed.
///
/// # Panics
/// Never: a test parses it.
#[must_use]
pub fn wit() -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let mut sources = SourceMap::new();
    for (name, text) in FILES {
        sources.push_str(name, text);
    }
    let group = sources.parse().map_err(|(_, error)| error).expect("our WIT is right");
    let package = resolve.push_group(group).expect("our WIT stands alone");
    (resolve, package)
}

/// A world by its name.
pub(crate) fn find(name: &str) -> Result<(Resolve, WorldId), Error> {
    if !WORLDS.contains(&name) {
        return Err(Error::UnknownWorld { name: name.to_owned() });
    }
    let (resolve, package) = wit();
    let world = resolve.select_world(&[package], Some(name)).expect("a world that is listed");
    Ok((resolve, world))
}
