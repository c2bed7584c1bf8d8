//! What comes into the store, what is freshened there, and what has to leave it.

use std::rc::Rc;

use weir_sdk::hash;
use weir_sdk::message::prelude::*;

use super::answer::weak;
use super::control::{Freshness, is_heuristic};
use super::store::{Place, Stored};
use super::variant::vary;
use super::{Cache, Forward, State};

/// Fields that belong to one message, not to what is stored (RFC 9111, section 3.1).
const NOT_STORED: [&[u8]; 8] = [
    b"age",
    b"content-length",
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-authorization",
    b"trailer",
    b"connection",
    b"keep-alive",
];
/// Fields of a 304 that say nothing of what is stored (RFC 9111, section 3.2), or are for one
/// client.
const NOT_UPDATED: [&[u8]; 5] =
    [b"content-encoding", b"content-length", b"content-range", b"content-type", b"set-cookie"];

/// Removals that are told apart, by their keys' hashes.
const REMOVALS: usize = 1024;

/// When keys were last removed by requests that changed what they are for. What was asked for
/// before that may be what was there before.
#[derive(Debug)]
pub(crate) struct Removals {
    count: u64,
    /// Keys that share a place are taken for one: then a response is not stored that could have
    /// been.
    last: Vec<u64>,
}

impl Removals {
    pub(crate) fn new() -> Self {
        Self { count: 0, last: vec![0; REMOVALS] }
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn note(&mut self, hash: u64) {
        self.count += 1;
        self.last[slot(hash)] = self.count;
    }

    /// Whether there was one of this key after so many.
    fn is_after(&self, hash: u64, count: u64) -> bool {
        self.last[slot(hash)] > count
    }
}

fn slot(hash: u64) -> usize {
    (hash % REMOVALS as u64) as usize
}

impl Cache {
    /// A response that may be stored came.
    pub(crate) fn take_in(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
        why: Forward,
        now: u64,
    ) -> Outcome {
        let state = &mut *exchange.state;
        let stored = self.storable(state, head, now);
        let told = self.tell(head, why, stored.is_some());
        let Some(stored) = stored else { return told };
        state.filling = Some(Box::new(stored));
        state.expected = head.body_length();
        if head.no_body() {
            self.complete(state);
            return Outcome::Done;
        }
        Outcome::Continue
    }

    /// What is to be stored of a response, without its body; none if it must not be, or need not
    /// (RFC 9111, section 3).
    fn storable(&self, state: &State, head: &Head<'_>, now: u64) -> Option<Stored> {
        let status = head.status();
        let cookie = state.fields.iter().any(|(name, _)| name == b"cookie");
        // Without being told, nothing is kept that may be about somebody.
        let percent = if cookie { 0 } else { self.config.heuristic_percent };
        let most = self.config.heuristic_max;
        let percent = if is_heuristic(status) { percent } else { 0 };
        let freshness = Freshness::of(head, state.asked, now, percent, most);
        let control = freshness.control;
        let explicit = control.max_age.is_some()
            || control.shared_max_age.is_some()
            || head.field("expires").is_some();
        let too_long = head.body_length().is_some_and(|n| n as usize > self.config.max_body);
        if head.made()
            || matches!(status, 206 | 304)
            || control.no_store
            || control.private
            || state.authorized && !control.for_all()
            || !(explicit || control.public || is_heuristic(status))
            || head.field("set-cookie").is_some() && !(self.config.store_set_cookie && explicit)
            || head.field("content-range").is_some()
            || too_long
        {
            return None;
        }
        let validator = head.field("etag").is_some() || head.field("last-modified").is_some();
        let fresh = freshness.lifetime > freshness.initial_age && !control.no_cache;
        let later = control.stale_while_revalidate.is_some() || control.stale_if_error.is_some();
        if !(fresh || validator && (explicit || control.no_cache || later)) {
            return None;
        }
        let vary = vary(&state.fields, head)?;
        let fields = head.fields().filter(|(name, _)| !NOT_STORED.contains(name));
        Some(Stored {
            key: state.key.clone(),
            vary,
            status,
            fields: fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            body: Rc::default(),
            freshness,
            asking_since: 0,
        })
    }

    /// A response is complete.
    pub(crate) fn complete(&mut self, state: &mut State) {
        let Some(stored) = state.filling.take() else { return };
        self.filling -= stored.body.len();
        self.ask_no_more(state);
        let is_whole = state.expected.is_none_or(|n| n as usize == stored.body.len());
        if !is_whole || self.removals.is_after(state.hash, state.removals) {
            return;
        }
        if self.store.insert(state.hash, *stored) {
            self.counters.stored.add(1);
        }
        self.count();
    }

    pub(crate) fn let_go(&mut self, state: &mut State) {
        if let Some(filling) = state.filling.take() {
            self.filling -= filling.body.len();
        }
    }

    fn count(&self) {
        self.counters.bytes.set(self.store.bytes() as f64);
        self.counters.responses.set(self.store.len() as f64);
    }

    /// A 304 is about a stored response, which is fresh again (RFC 9111, section 4.3.4). False if
    /// it is about another. See [`Cache::forget_private`].
    pub(crate) fn freshen(&mut self, place: Place, head: &Head<'_>, asked: u64, now: u64) -> bool {
        let Some(stored) = self.store.get_mut(place) else { return false };
        if let (Some(told), Some(have)) = (head.field("etag"), stored.field("etag"))
            && weak(told) != weak(have)
        {
            return false;
        }
        for (name, _) in head.fields() {
            if !NOT_STORED.contains(&name) && !NOT_UPDATED.contains(&name) {
                stored.fields.retain(|(other, _)| other != name);
            }
        }
        for (name, value) in head.fields() {
            if !NOT_STORED.contains(&name) && !NOT_UPDATED.contains(&name) {
                stored.fields.push((name.to_vec(), value.to_vec()));
            }
        }
        // A 304 need not repeat what it does not change.
        let told = Freshness::of(head, asked, now, 0, 0);
        let explicit = ["cache-control", "expires"].iter().any(|name| head.field(name).is_some());
        let Freshness { initial_age, received, .. } = told;
        stored.freshness =
            if explicit { told } else { Freshness { initial_age, received, ..stored.freshness } };
        self.store.changed(place);
        true
    }

    /// Removes a response of which a 304 said that it is not for everybody any more: who asked has
    /// got it then.
    pub(crate) fn forget_private(&mut self, place: Place) {
        if let Some(stored) = self.store.get(place)
            && (stored.freshness.control.no_store || stored.freshness.control.private)
        {
            let key = stored.key.clone();
            self.store.invalidate(hash::bytes(&key, self.seed), &key);
            self.count();
        }
    }

    /// Removes a response that is not true any more.
    pub(crate) fn remove(&mut self, place: Place) {
        self.store.remove(place);
        self.count();
    }

    /// RFC 9111, section 4.4.
    pub(crate) fn invalidate(&mut self, state: &State, head: &Head<'_>) {
        let mut removed = self.invalidate_key(state.hash, &state.key);
        let scheme_and_host = state.key.iter().position(|c| *c == b'/').unwrap_or(0);
        let ours = &state.key[..scheme_and_host];
        for name in ["location", "content-location"] {
            // Of the same origin: absolute paths, or URIs that begin as the target's does.
            let Some(value) = head.field(name) else { continue };
            let host = &ours[1..];
            let path = match value.strip_prefix(b"https://").or(value.strip_prefix(b"http://")) {
                Some(rest) => rest.strip_prefix(host).filter(|path| path.starts_with(b"/")),
                None => Some(value).filter(|v| v.starts_with(b"/") && !v.starts_with(b"//")),
            };
            if let Some(path) = path {
                let key = [ours, path].concat();
                removed += self.invalidate_key(hash::bytes(&key, self.seed), &key);
            }
        }
        self.counters.invalidated.add(removed as u64);
        self.count();
    }

    fn invalidate_key(&mut self, hash: u64, key: &[u8]) -> usize {
        self.removals.note(hash);
        self.store.invalidate(hash, key)
    }
}
