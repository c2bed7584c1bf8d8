//! Machine code that one process of the host hands to another: a sealed memfd.
//!
//! Worker processes have no compiler of their own and open no files: the host compiles, and gives
//! them what it got.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use wasmtime::component::Component;

use crate::compile::{CompileError, Compiled, Sandbox};

/// Maximum size of machine code that is taken, in bytes.
pub(crate) const CODE_MAX: usize = 1 << 30;

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> CompileError {
    move |source| CompileError::Io { what: what.to_owned(), source }
}

/// Machine code that is shared now, by its component's hash.
#[derive(Default)]
pub(crate) struct SharedCode(Mutex<BTreeMap<[u8; 32], Weak<OwnedFd>>>);

/// Machine code in a file that nobody can change any more.
fn sealed(compiled: &Compiled) -> Result<OwnedFd, CompileError> {
    let code = compiled.component.serialize();
    let code = code.map_err(|error| CompileError::Component(format!("{error:#}")))?;
    let failed = failed("sharing machine code");
    let fd = memfd_create("weir-code", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let mut file = File::from(fd.map_err(|error| failed(error.into()))?);
    file.write_all(&code).map_err(&failed)?;
    fcntl_add_seals(&file, SEALS).map_err(|error| failed(error.into()))?;
    Ok(file.into())
}

impl Sandbox {
    /// The code of the component with this hash in a file that nobody can change any more: the same
    /// for all who have it at a time.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn share(&self, compiled: &Compiled, hash: [u8; 32]) -> Result<Arc<OwnedFd>, CompileError> {
        let all = || self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = all().get(&hash).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(sealed(compiled)?);
        let mut all = all();
        all.retain(|_, file| file.strong_count() > 0);
        all.insert(hash, Arc::downgrade(&file));
        Ok(file)
    }

    /// Loads what another process of this host shared. `serves`: as for
    /// [`Sandbox::compile_service`].
    ///
    /// # Errors
    /// When it can still be changed, or is no code of this program's engine.
    ///
    /// # Safety
    /// The file must have been made by [`Sandbox::share`], by a process that runs the same program:
    /// what it holds is executed.
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

/// Nobody can write or map it writable from now on, and nobody has it mapped. `WRITE` would say the
/// same, but is refused (`EBUSY`) as long as anybody in the kernel looks at one of the pages, say
/// to reclaim memory.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

#[cfg(test)]
mod tests {
    use crate::SandboxConfig;

    use super::*;

    #[test]
    fn code_is_there_once_for_all_who_have_it_and_nobody_changes_it() {
        let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
        let component = wat::parse_str("(component)").unwrap();
        let compiled = sandbox.compile(&component, [1; 32]).unwrap();
        let share = |hash| sandbox.share(&compiled, hash).unwrap();
        let one = share([1; 32]);
        assert!(Arc::ptr_eq(&one, &share([1; 32])));
        let mut other = File::from(share([2; 32]).try_clone().unwrap());
        assert!(!Arc::ptr_eq(&one, &share([2; 32])));
        assert!(other.write_all(b"x").is_err());
        // SAFETY: it was shared just now.
        unsafe { sandbox.load_shared(other.into(), false) }.unwrap();
        let known = Arc::downgrade(&one);
        drop(one);
        share([3; 32]);
        assert!(known.upgrade().is_none(), "it goes with the last who has it");
        assert!(!sandbox.shared.0.lock().unwrap().contains_key(&[1; 32]));
        share([1; 32]);
    }
}
