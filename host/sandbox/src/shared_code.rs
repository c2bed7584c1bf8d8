//! Machine code that one process of the host hands to another: a sealed memfd.
//!
//! Worker processes have no compiler of their own and open no files: the host compiles, and gives them what it got.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use wasmtime::component::Component;

use crate::compile::{CompileError, Compiled, Sandbox};

/// Most bytes of machine code that is taken.
pub const CODE_MAX: usize = 1 << 30;

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> CompileError {
    move |source| CompileError::Io { what: what.to_owned(), source }
}

impl Sandbox {
    /// The code in a file that nobody can change any more.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn share(compiled: &Compiled) -> Result<OwnedFd, CompileError> {
        let code = compiled.component.serialize();
        let code = code.map_err(|error| CompileError::Component(format!("{error:#}")))?;
        let failed = failed("sharing machine code");
        let fd = memfd_create("weir-code", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let mut file = File::from(fd.map_err(|error| failed(error.into()))?);
        file.write_all(&code).map_err(&failed)?;
        fcntl_add_seals(&file, SEALS).map_err(|error| failed(error.into()))?;
        Ok(file.into())
    }

    /// Loads what another process of this host shared. `serves`: as for [`Sandbox::compile_service`].
    ///
    /// # Errors
    /// When it can still be changed, or is no code of this program's engine.
    ///
    /// # Safety
    /// The file must have been made by [`Sandbox::share`], by a process that runs the same program: what it holds is executed.
    pub unsafe fn load_shared(
        &self,
        file: OwnedFd,
        serves: bool,
    ) -> Result<Component, CompileError> {
        let failed = failed("loading shared machine code");
        let wrong = |error: rustix::io::Errno| failed(error.into());
        let sealed = fcntl_get_seals(&file).map_err(wrong)?.contains(SEALS);
        let length = usize::try_from(fstat(&file).map_err(wrong)?.st_size).unwrap_or(usize::MAX);
        if !sealed || length > CODE_MAX {
            return Err(wrong(rustix::io::Errno::INVAL));
        }
        let mut code = vec![0; length];
        File::from(file).read_exact_at(&mut code, 0).map_err(&failed)?;
        // SAFETY: the caller's contract; nothing has changed the file since, because it is sealed.
        unsafe { self.load(&code, serves) }
    }
}

/// Nobody can write or map it writable from now on, and nobody has it mapped. `WRITE` would say the same, but is refused (`EBUSY`) as long
/// as anybody in the kernel looks at one of the pages, say to reclaim memory.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);
