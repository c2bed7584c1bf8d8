//! What children found of uploads, on disk beside compiled code: so that a start needs no child for
//! what ran before.
//!
//! An answer is the word of the program that gave it: of its rules, limits, validator and engine,
//! and of how it is written down. So it is believed by the very same build of that program alone,
//! which is known by the build ID that the linker made of all that is in it, and if the child was
//! started with the same arguments. The next version looks at everything anew, and may refuse what
//! this one took. `compile-timeout` is not asked for: it bounds the time that looking takes, and
//! this takes none.
//!
//! Refusals are not kept. Some are about the machine and not the upload (no memory, no time),
//! whoever is refused may try as often as he likes, and what is refused is in no chain, so that no
//! start waits for it.
//!
//! What lies there is trusted like compiled code, and for the same reason: only the host's user can
//! write in the directory, and the host does not start when others can. Who could would rather
//! write machine code, which is executed; this only says what may be compiled. What is damaged, or
//! was written for another upload or by another build, is not taken.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use object::Endianness;
use object::elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use sha2::{Digest as _, Sha256};

use crate::code_cache::CodeCache;
use crate::compile::{SandboxConfig, hex};
use crate::compiler::Compiler;
use crate::function_cache::{Hash, put};

/// Bytes of an ELF file in which its build ID is looked for: linkers put it in front of all code.
const HEAD: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Answers {
    cache: CodeCache,
    /// SHA-256 of what a child is: its program's build ID, and its arguments.
    child: Hash,
}

impl Answers {
    /// Where children look at uploads, there is a place on disk, and the program says which build
    /// it is.
    pub(crate) fn new(config: &SandboxConfig) -> Option<Self> {
        let Compiler::Child { program, admission, .. } = &config.compiler else { return None };
        let cache = config.cache.clone()?;
        let Some(mut child) = build_id(program) else {
            tracing::warn!(
                "each start looks at all uploads again: {} does not say which build it is: link it with `--build-id=sha1`",
                program.display()
            );
            return None;
        };
        for argument in admission {
            put(&mut child, argument.as_bytes());
        }
        Some(Self { cache, child: Sha256::digest(child).into() })
    }

    /// What a child answered about the upload with this hash, if it has at most so many bytes.
    pub(crate) fn get(&self, upload: &Hash, most: usize) -> Option<Vec<u8>> {
        let (name, head) = (self.name(upload), self.head(upload));
        let mut entry = self.cache.read(&name, head.len() + most)?;
        if !entry.starts_with(&head) {
            tracing::warn!(name, "what was found of an upload is of another one");
            return None;
        }
        entry.drain(..head.len());
        Some(entry)
    }

    /// Keeps it.
    pub(crate) fn keep(&self, upload: &Hash, answer: &[u8]) {
        let entry = [&self.head(upload), answer].concat();
        self.cache.keep(&self.name(upload), &entry);
    }

    fn name(&self, upload: &Hash) -> String {
        format!("{}-{}.admitted", hex(upload), hex(&self.child[..8]))
    }

    /// What an entry begins with: whose word it is, and about what.
    fn head(&self, upload: &Hash) -> Vec<u8> {
        [self.child, *upload].concat()
    }
}

/// The ID that the linker gave this build of a program.
fn build_id(program: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
    let (data, endian) = (head.as_slice(), Endianness::default());
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    for segment in header.program_headers(endian, data).ok()? {
        let Ok(Some(mut notes)) = segment.notes(endian, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == ELF_NOTE_GNU && note.n_type(endian) == NT_GNU_BUILD_ID {
                return Some(note.desc().to_vec());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_which_build_it_is_and_what_is_none_says_nothing() {
        let own = build_id(Path::new("/proc/self/exe")).unwrap();
        assert!(own.len() >= 8, "{own:?}");
        assert_ne!(build_id(Path::new("/bin/sh")).unwrap(), own);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("program");
        let program = std::fs::read("/bin/sh").unwrap();
        for none in [&b"#!/bin/sh\n"[..], b"", &program[..100], &[0xff; 4096]] {
            std::fs::write(&file, none).unwrap();
            assert_eq!(build_id(&file), None);
        }
        assert_eq!(build_id(Path::new("/nowhere")), None);
        assert_eq!(build_id(directory.path()), None);
    }
}
