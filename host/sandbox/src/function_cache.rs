//! Cranelift's cache of single functions, and how it travels from the compiling child to the host.
//!
//! A chain that is linked anew, because one of its functions was replaced, compiles only what is new. The child that
//! compiles an upload fills a cache of its own, and hands it over with the code: so the host compiles nothing of the upload
//! a second time when it links it into a chain.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wasmtime::CacheStore;

/// Bytes of machine code of single functions kept.
const BYTES_MAX: usize = 128 << 20;

/// The cache. Emptied when full: it is filled again as chains are linked.
#[derive(Debug, Default)]
pub(crate) struct FunctionCache(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    code: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl FunctionCache {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a compiling child answers: the component's code, and this cache.
    pub(crate) fn answer(&self, code: &[u8]) -> Vec<u8> {
        let inner = self.inner();
        let mut answer = Vec::with_capacity(code.len() + inner.bytes);
        put(&mut answer, code);
        for (key, value) in &inner.code {
            put(&mut answer, key);
            put(&mut answer, value);
        }
        answer
    }

    /// Takes over what a child has compiled. The answer is the component's code; None when the child's is cut off.
    pub(crate) fn take_over<'a>(&self, mut answer: &'a [u8]) -> Option<&'a [u8]> {
        let code = take(&mut answer)?;
        let mut entries = Vec::new();
        while !answer.is_empty() {
            entries.push((take(&mut answer)?, take(&mut answer)?));
        }
        for (key, value) in entries {
            self.insert(key, value.to_vec());
        }
        Some(code)
    }
}

impl CacheStore for FunctionCache {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.inner().code.get(key).cloned().map(Cow::Owned)
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let mut inner = self.inner();
        if inner.bytes + value.len() > BYTES_MAX {
            inner.code.clear();
            inner.bytes = 0;
        }
        inner.bytes += value.len();
        inner.code.insert(key.to_vec(), value);
        true
    }
}

/// Appends bytes, behind their number as eight bytes.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u64).to_le_bytes());
    to.extend(bytes);
}

/// Takes what [`put`] appended off the front.
fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (bytes, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_answers_is_taken_over_whole_or_not_at_all() {
        let child = FunctionCache::default();
        child.insert(b"a", b"code of a".to_vec());
        child.insert(b"b", Vec::new());
        let answer = child.answer(b"component");
        let host = FunctionCache::default();
        assert_eq!(host.take_over(&answer), Some(b"component".as_slice()));
        assert_eq!(host.get(b"a").as_deref(), Some(b"code of a".as_slice()));
        assert_eq!(host.get(b"b").as_deref(), Some(b"".as_slice()));
        let only_code = 8 + b"component".len();
        for length in (0..answer.len()).filter(|length| *length != only_code) {
            let cut = FunctionCache::default();
            // Between two entries it cannot be seen that more was to follow, which does no harm.
            if cut.take_over(&answer[..length]).is_none() {
                assert!(cut.get(b"a").is_none() && cut.get(b"b").is_none(), "{length}");
            }
        }
        assert_eq!(host.take_over(&[0xff; 64]), None);
    }
}
