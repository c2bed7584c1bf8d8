//! Code of single functions, Cranelift's incremental cache, and how it travels between the host and
//! the compiling child.
//!
//! Whatever tenants uploaded is compiled in a child, alone and as a part of a chain. The child
//! hands over the code of each single function with that of the component, and gets it back when
//! the component is linked with others: so a chain in which one function was replaced has little
//! but that compiled anew. Some functions have their module's number in their key; they are found
//! in the last chain that was like this one.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::CacheStore;

/// Bytes of machine code of single functions that are kept: of a compilation, and by the host.
pub(crate) const PIECES_MAX: usize = 128 << 20;

/// Code of the single functions of a component, by Cranelift's keys.
pub(crate) type Pieces = Vec<(Vec<u8>, Vec<u8>)>;

/// The cache of an engine. When it is full, what comes is not kept.
#[derive(Debug, Default)]
pub(crate) struct FunctionCache(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What the child was given, and which of it was of use.
    given: HashMap<Vec<u8>, Vec<u8>>,
    used: HashSet<Vec<u8>>,
    made: HashMap<Vec<u8>, Vec<u8>>,
    /// Of what was made.
    bytes: usize,
}

impl FunctionCache {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what [`order`] wrote, in the child: the component. None when it is cut off.
    pub(crate) fn take_order<'a>(&self, mut order: &'a [u8]) -> Option<&'a [u8]> {
        let component = take(&mut order)?;
        self.inner().given = take_pieces(order)?.into_iter().collect();
        Some(component)
    }

    /// What the child answers, for [`read_answer`]: the component's code, and that of its
    /// functions.
    pub(crate) fn answer(&self, code: &[u8]) -> Vec<u8> {
        let inner = self.inner();
        let mut answer = Vec::with_capacity(code.len() + inner.bytes);
        put(&mut answer, code);
        let given = inner.given.iter().filter(|(key, _)| inner.used.contains(*key));
        for (key, value) in inner.made.iter().chain(given) {
            put(&mut answer, key);
            put(&mut answer, value);
        }
        answer
    }

    /// How many functions had to be compiled.
    #[cfg(test)]
    pub(crate) fn made(&self) -> usize {
        self.inner().made.len()
    }
}

impl CacheStore for FunctionCache {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut inner = self.inner();
        let Some(given) = inner.given.get(key).cloned() else {
            return inner.made.get(key).cloned().map(Cow::Owned);
        };
        inner.used.insert(key.to_vec());
        Some(Cow::Owned(given))
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let mut inner = self.inner();
        if inner.bytes + value.len() > PIECES_MAX {
            return false;
        }
        inner.bytes += value.len();
        inner.made.insert(key.to_vec(), value);
        true
    }
}

/// What a child is given: a component, and what is known of its functions.
pub(crate) fn order(component: &[u8], known: &[Arc<Pieces>]) -> Vec<u8> {
    let mut order = Vec::new();
    put(&mut order, component);
    for (key, value) in known.iter().flat_map(|pieces| pieces.iter()) {
        put(&mut order, key);
        put(&mut order, value);
    }
    order
}

/// Reads what [`FunctionCache::answer`] wrote; none when it is cut off. The code stays where it is:
/// it may be large.
pub(crate) fn read_answer(mut answer: Vec<u8>) -> Option<(Vec<u8>, Pieces)> {
    let mut rest = answer.as_slice();
    let code = take(&mut rest)?.len();
    let pieces = take_pieces(rest)?;
    let head = answer.len() - rest.len() - code;
    answer.truncate(head + code);
    answer.drain(..head);
    answer.shrink_to_fit();
    Some((answer, pieces))
}

/// A component's hash.
pub(crate) type Hash = [u8; 32];

/// The functions' code of components that were compiled lately. What was used longest ago goes
/// first.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The one used last at the end.
    components: Vec<Component>,
    bytes: usize,
}

#[derive(Debug)]
struct Component {
    hash: Hash,
    /// Those that it was composed of.
    parts: BTreeSet<Hash>,
    pieces: Arc<Pieces>,
}

impl Known {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of this component.
    pub(crate) fn get(&self, hash: &Hash) -> Option<Arc<Pieces>> {
        let mut kept = self.kept();
        let place = kept.components.iter().position(|known| known.hash == *hash)?;
        Some(kept.touch(place))
    }

    /// Of the one that has the most parts in common with one of these.
    pub(crate) fn like(&self, parts: &BTreeSet<Hash>) -> Option<Arc<Pieces>> {
        let mut kept = self.kept();
        let common = |known: &Component| known.parts.intersection(parts).count();
        let known = kept.components.iter().enumerate().max_by_key(|(_, known)| common(known));
        let (place, _) = known.filter(|(_, known)| common(known) > 0)?;
        Some(kept.touch(place))
    }

    pub(crate) fn keep(&self, hash: Hash, parts: BTreeSet<Hash>, pieces: Arc<Pieces>) {
        let mut kept = self.kept();
        if let Some(place) = kept.components.iter().position(|known| known.hash == hash) {
            kept.forget(place);
        }
        kept.bytes += bytes(&pieces);
        kept.components.push(Component { hash, parts, pieces });
        while kept.bytes > PIECES_MAX {
            kept.forget(0);
        }
    }
}

impl Kept {
    fn touch(&mut self, place: usize) -> Arc<Pieces> {
        self.components[place..].rotate_left(1);
        self.components.last().map(|known| Arc::clone(&known.pieces)).unwrap_or_default()
    }

    fn forget(&mut self, place: usize) {
        self.bytes -= bytes(&self.components.remove(place).pieces);
    }
}

fn bytes(pieces: &Pieces) -> usize {
    pieces.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Appends bytes, behind their number as eight bytes.
pub(crate) fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u64).to_le_bytes());
    to.extend(bytes);
}

/// Takes what [`put`] appended off the front.
pub(crate) fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (bytes, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// All that follows.
fn take_pieces(mut from: &[u8]) -> Option<Pieces> {
    let mut pieces = Vec::new();
    while !from.is_empty() {
        pieces.push((take(&mut from)?.to_vec(), take(&mut from)?.to_vec()));
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_answers_with_what_it_made_or_used_whole_or_not_at_all() {
        let piece = |key: &[u8]| (key.to_vec(), b"code".to_vec());
        let known = Arc::new(vec![piece(b"a"), piece(b"unused")]);
        let child = FunctionCache::default();
        assert_eq!(child.take_order(&order(b"wasm", &[known])), Some(b"wasm".as_slice()));
        assert_eq!(child.get(b"a").as_deref(), Some(b"code".as_slice()));
        assert_eq!(child.get(b"b"), None);
        child.insert(b"b", b"code".to_vec());
        assert_eq!(child.get(b"b").as_deref(), Some(b"code".as_slice()));
        let answer = child.answer(b"component");
        let pieces = vec![piece(b"b"), piece(b"a")];
        assert_eq!(read_answer(answer.clone()), Some((b"component".to_vec(), pieces)));
        let (only_code, one_piece) = (8 + b"component".len(), 8 + 1 + 8 + b"code".len());
        // Between two pieces it cannot be seen that more was to follow, which does no harm.
        let whole = [only_code, only_code + one_piece];
        for length in (0..answer.len()).filter(|length| !whole.contains(length)) {
            assert_eq!(read_answer(answer[..length].to_vec()), None, "{length}");
        }
        assert_eq!(read_answer(vec![0xff; 64]), None);
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let known = Known::default();
        let keep = |name: u8, bytes: usize| {
            let pieces = Arc::new(vec![(Vec::new(), vec![0; bytes])]);
            known.keep([name; 32], BTreeSet::new(), pieces);
        };
        let has = |name: u8| known.get(&[name; 32]).is_some();
        keep(1, PIECES_MAX / 2);
        keep(2, PIECES_MAX / 2);
        keep(2, PIECES_MAX / 2);
        assert!(has(2) && has(1));
        keep(3, 1);
        assert!(has(1) && !has(2) && has(3));
        keep(4, PIECES_MAX + 1);
        assert!(!has(1) && !has(3) && !has(4), "what is too large is not kept");
    }

    #[test]
    fn the_chain_that_is_most_like_another_is_found() {
        let known = Known::default();
        let parts = |names: &[u8]| names.iter().map(|name| [*name; 32]).collect::<BTreeSet<_>>();
        for (name, of) in [(10, &[1, 2, 3][..]), (11, &[1, 4]), (12, &[]), (13, &[5])] {
            let pieces = vec![(vec![name], Vec::new())];
            known.keep([name; 32], parts(of), Arc::new(pieces));
        }
        let like = |names: &[u8]| known.like(&parts(names)).map(|pieces| pieces[0].0[0]);
        assert_eq!([like(&[1, 2, 7]), like(&[4]), like(&[6])], [Some(10), Some(11), None]);
    }
}
