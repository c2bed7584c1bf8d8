//! What was admitted, so that it is looked at once: chains that use the same upload share its bytes, and an upload is not
//! looked at again on its way from being checked to being compiled and deployed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sha2::{Digest as _, Sha256};

use crate::admit::{Admitted, Refused, admit};

/// Bytes of the components that are kept although nobody uses them any more, or yet.
const RECENT_MAX: usize = 16 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Admissions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the SHA-256 of the upload.
    known: HashMap<[u8; 32], Weak<Admitted>>,
    /// The last ones, the newest behind.
    recent: VecDeque<Arc<Admitted>>,
}

impl Admissions {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`admit`], unless it is known.
    ///
    /// # Errors
    /// As [`admit`].
    pub(crate) fn admit(&self, upload: &[u8]) -> Result<Arc<Admitted>, Refused> {
        let hash = Sha256::digest(upload).into();
        if let Some(admitted) = self.inner().known.get(&hash).and_then(Weak::upgrade) {
            return Ok(admitted);
        }
        let admitted = Arc::new(admit(upload)?);
        self.inner().insert(hash, &admitted);
        Ok(admitted)
    }
}

impl Inner {
    fn insert(&mut self, hash: [u8; 32], admitted: &Arc<Admitted>) {
        self.recent.push_back(Arc::clone(admitted));
        let mut bytes: usize = self.recent.iter().map(|recent| recent.component.len()).sum();
        while bytes > RECENT_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            bytes -= oldest.component.len();
        }
        self.known.retain(|_, admitted| admitted.strong_count() > 0);
        self.known.insert(hash, Arc::downgrade(admitted));
        crate::trace::remember(admitted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::World;

    fn admitted(bytes: usize) -> Arc<Admitted> {
        Arc::new(Admitted {
            component: vec![0; bytes].into(),
            hash: [0; 32],
            world: World::Window,
            saves: false,
            imports: Vec::new(),
            memory_at_start: 0,
            manifest: None,
        })
    }

    #[test]
    fn what_nobody_uses_is_kept_for_a_while_and_what_somebody_uses_is_found() {
        let mut inner = Inner::default();
        let known = |inner: &Inner| {
            let mut known: Vec<u8> = inner
                .known
                .iter()
                .filter_map(|(hash, admitted)| admitted.upgrade().map(|_| hash[0]))
                .collect();
            known.sort_unstable();
            known
        };
        let used = admitted(RECENT_MAX / 2);
        inner.insert([1; 32], &used);
        inner.insert([2; 32], &admitted(RECENT_MAX / 2));
        assert_eq!(known(&inner), [1, 2]);
        inner.insert([3; 32], &admitted(1));
        assert_eq!(known(&inner), [1, 2, 3], "the first is in use");
        inner.insert([4; 32], &admitted(RECENT_MAX));
        assert_eq!(known(&inner), [1, 4]);
        inner.insert([5; 32], &admitted(RECENT_MAX + 1));
        assert_eq!(known(&inner), [1], "what is too large is not kept");
    }
}
