//! WASI preview 1 for functions built by toolchains that cannot do without it.
//!
//! Owns: the adapter, a core module that answers the calls of `wasi_snapshot_preview1` with what
//! `weir:net/host` has (`wasi.wat`). A component made with it imports `weir:net` only, so it is
//! admitted, linked and bounded like any other, and there is no file, socket or environment behind
//! it that could be got hold of.

use std::fmt::Write as _;

use wasmparser::{Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};

use crate::worlds::wit;

/// The core module that compilers for WASI make modules import.
pub(crate) const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// What is refused with `BADF`: there are no files and no sockets. Parameters as `i` (32 bits) and
/// `l` (64 bits).
const REFUSED: [(&str, &str); 31] = [
    ("fd_advise", "illi"),
    ("fd_allocate", "ill"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_set_rights", "ill"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "il"),
    ("fd_filestat_set_times", "illi"),
    ("fd_pread", "iiili"),
    ("fd_prestat_get", "ii"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_pwrite", "iiili"),
    ("fd_readdir", "iiili"),
    ("fd_renumber", "ii"),
    ("fd_seek", "ilii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiilli"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiillii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

/// The adapter for `ComponentEncoder::adapter`, under the name [`PREVIEW_1`].
///
/// # Panics
/// Never: it is made of text that a test has seen.
pub(crate) fn adapter() -> Vec<u8> {
    let mut refused = String::new();
    for (name, parameters) in REFUSED {
        let parameters = parameters.replace('i', " i32").replace('l', " i64");
        let _ = writeln!(
            refused,
            "  (func (export \"{name}\") (param{parameters}) (result i32) (i32.const 8))"
        );
    }
    let text = include_str!("wasi.wat").replace("{refused}", &refused);
    let mut module = wat::parse_str(text).expect("the adapter assembles");
    let (mut resolve, net) = wit();
    let world = "package weir:wasi; world adapter { import weir:net/host@0.1.0; }";
    let package = resolve.push_str("adapter.wit", world).expect("the adapter's world parses");
    let world = resolve
        .select_world(&[package, net], Some("weir:wasi/adapter"))
        .expect("the adapter's world is there");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
        .expect("metadata fits any module");
    module
}

/// Whether the adapter has this function.
pub(crate) fn answers(adapter: &[u8], name: &str) -> bool {
    Parser::new(0).parse_all(adapter).flatten().any(|payload| match payload {
        Payload::ExportSection(section) => {
            section.into_iter().flatten().any(|export| export.name == name)
        }
        _ => false,
    })
}

/// Whether a module calls WASI.
pub(crate) fn is_called(module: &[u8]) -> bool {
    Parser::new(0).parse_all(module).flatten().any(|payload| match payload {
        Payload::ImportSection(section) => {
            section.into_imports().flatten().any(|import| import.module == PREVIEW_1)
        }
        _ => false,
    })
}
