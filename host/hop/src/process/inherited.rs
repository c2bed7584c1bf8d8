//! What a worker is given at its start: the socket of its hop, and the memory that descriptors
//! speak of.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Namespaces, ProcessError};
use crate::end::End;
use crate::hub::WorkerSocket;

/// The variable that says what there is: hop, generation, whether messages count, how many
/// memories, namespaces' flags.
pub(crate) const VARIABLE: &str = "WEIR_HOP";
/// Where the socket is; the memories are behind it.
pub(crate) const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// See the module.
#[derive(Debug)]
pub struct Inherited {
    /// The worker's end.
    pub end: End,
    /// The memories, in the plan's order.
    pub memories: Vec<OwnedFd>,
    /// The namespaces it was started in.
    pub namespaces: Namespaces,
}

impl Inherited {
    /// Takes what this process was started with. To be called once, first thing in `main`, before
    /// anything is opened.
    ///
    /// # Errors
    /// If this is not a worker, or this was called before.
    pub fn take() -> Result<Self, ProcessError> {
        let problem = |problem: &str| ProcessError::NoWorker(format!("{VARIABLE} {problem}"));
        let text = std::env::var(VARIABLE).map_err(|_| problem("is not set"))?;
        let words: Option<Vec<u64>> = text.split(':').map(|word| word.parse().ok()).collect();
        let Some(&[hop, generation, messages, memories, flags]) = words.as_deref() else {
            return Err(problem("is not five numbers"));
        };
        let (Ok(hop), Ok(generation), Ok(memories)) =
            (u16::try_from(hop), u8::try_from(generation), u16::try_from(memories))
        else {
            return Err(problem("has a number that is too large"));
        };
        let fds = FIRST..FIRST + 1 + RawFd::from(memories);
        // SAFETY: F_GETFD takes numbers, and answers for any.
        if fds.clone().any(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0) {
            return Err(problem("names files that are not open"));
        }
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(problem("was taken before"));
        }
        // SAFETY: they are open, and nobody else's: whoever started this process put them there for
        // it, and this happens once.
        let mut fds = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let socket = fds.next().ok_or_else(|| problem("names no socket"))?;
        Ok(Self {
            end: WorkerSocket::new(socket, hop, generation, messages != 0).open(),
            memories: fds.collect(),
            namespaces: Namespaces::of_flags(flags),
        })
    }
}
