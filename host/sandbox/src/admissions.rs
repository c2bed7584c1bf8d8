//! What was admitted, so that it is looked at once: chains that use the same upload share its bytes, and an upload is not
//! looked at again on its way from being checked to being compiled and deployed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::admit::{Admitted, Refused, UPLOAD_MAX, admit};
use crate::compile::CompileError;
use crate::compiler::{Compiler, run_child};
use crate::function_cache::{put, take};
use crate::loaded::Loaded;

/// Bytes of the components that are kept although nobody uses them any more, or yet.
const RECENT_MAX: usize = 16 << 20;
/// Bytes of what was found of uploads that is kept, components aside: a manifest, and names of imports.
const FOUND_MAX: usize = 8 << 20;
/// How often a child is tried that cannot be started, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of what a child says of an upload: what it made of it, and what it found, of which a manifest has most.
const ANSWER_MAX: usize = 2 * UPLOAD_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Admissions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the SHA-256 of the upload.
    known: HashMap<[u8; 32], Weak<Admitted>>,
    /// The last ones, the newest behind.
    recent: Loaded<[u8; 32], Arc<Admitted>>,
    /// What was found of the last ones that were components already, without the component, which is the upload: so that a version that is
    /// brought back needs no child.
    found: Loaded<[u8; 32], Admitted>,
}

impl Admissions {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`admit`] by this compiler, unless it is known.
    ///
    /// # Errors
    /// As [`admit`], and when a child does not come to an end.
    pub(crate) fn admit(
        &self,
        compiler: &Compiler,
        upload: &[u8],
    ) -> Result<Arc<Admitted>, Refused> {
        let hash = Sha256::digest(upload).into();
        if let Some(admitted) = self.inner().known.get(&hash).and_then(Weak::upgrade) {
            return Ok(admitted);
        }
        let found = self.inner().found.get(hash);
        let admitted = Arc::new(match found {
            Some(found) => Admitted { component: upload.into(), ..found },
            None => admit_by(compiler, upload)?,
        });
        self.inner().insert(hash, &admitted);
        Ok(admitted)
    }
}

fn admit_by(compiler: &Compiler, upload: &[u8]) -> Result<Admitted, Refused> {
    let Compiler::Child { program, admission, timeout, .. } = compiler else {
        return admit(upload);
    };
    let ask = || run_child(program, admission, *timeout, upload, ANSWER_MAX);
    let mut answer = ask();
    for _ in 1..TRIES {
        let Err(CompileError::Io { .. }) = answer else { break };
        std::thread::sleep(PAUSE);
        answer = ask();
    }
    let answer = answer.map_err(|error| match error {
            CompileError::Io { .. } => {
                Refused::because(format!("nobody can look at it now: {error}: push it again"))
            }
            CompileError::TooLong(_) => Refused::because(format!(
                "it is not known whether it is valid: that takes longer than {timeout:?}: make it smaller, or split it"
            )),
            error => {
                tracing::warn!("whether an upload is valid was not found out: {error}");
                Refused::because(
                    "it is not known whether it is valid: to find out takes too much memory or time: make it smaller, or split it",
                )
            }
        })?;
    read_answer(&answer, upload).unwrap_or_else(|| {
        let program = program.display();
        Err(Refused::because(format!("{program} did not answer with what it found")))
    })
}

/// What the child of [`Compiler::Child`] says of an upload: what [`admit`] does, and the component if it is not the upload itself.
#[must_use]
pub fn answer_admission(upload: &[u8]) -> Vec<u8> {
    let found = admit(upload);
    let mut answer = Vec::new();
    // Of strings and numbers: that cannot fail.
    put(&mut answer, &serde_json::to_vec(&found).unwrap_or_default());
    if let Ok(admitted) = &found
        && *admitted.component != *upload
    {
        put(&mut answer, &admitted.component);
    }
    answer
}

/// Reads what [`answer_admission`] wrote of this upload; none when it is cut off.
fn read_answer(mut answer: &[u8], upload: &[u8]) -> Option<Result<Admitted, Refused>> {
    let mut found: Result<Admitted, Refused> = serde_json::from_slice(take(&mut answer)?).ok()?;
    if let Ok(admitted) = &mut found {
        let made = if answer.is_empty() { None } else { Some(take(&mut answer)?) };
        admitted.component = made.unwrap_or(upload).into();
    }
    Some(found)
}

/// Bytes of what was found of an upload, the component aside.
fn found_bytes(found: &Admitted) -> usize {
    let imports: usize = found.imports.iter().map(String::len).sum();
    size_of::<Admitted>() + imports + found.manifest.as_ref().map_or(0, String::len)
}

impl Inner {
    fn insert(&mut self, hash: [u8; 32], admitted: &Arc<Admitted>) {
        // Of what is a component already both hashes are one.
        if hash == admitted.hash {
            let found = Admitted { component: [].into(), ..(**admitted).clone() };
            let bytes = found_bytes(&found);
            self.found.insert(hash, found, bytes, FOUND_MAX);
        }
        self.recent.insert(hash, Arc::clone(admitted), admitted.component.len(), RECENT_MAX);
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
            memories_at_start: 0,
            memory_at_start: 0,
            manifest: None,
        })
    }

    #[test]
    fn a_child_says_what_it_found_whole_or_not_at_all() {
        let packet = r#"(component (instance $i) (export "weir:net/packet@0.1.0" (instance $i)))"#;
        let packet = wat::parse_str(packet).unwrap();
        let found = |answer: &[u8], upload: &[u8]| read_answer(answer, upload);
        let answer = answer_admission(&packet);
        let admitted = found(&answer, &packet).unwrap().unwrap();
        assert_eq!((&*admitted.component, admitted.world), (&*packet, World::Window));
        assert_eq!(admitted.hash, <[u8; 32]>::from(Sha256::digest(&packet)));
        // What it made of an upload follows.
        let mut answer_with_more = answer.clone();
        put(&mut answer_with_more, b"made of it");
        let admitted = found(&answer_with_more, &packet).unwrap().unwrap();
        assert_eq!(*admitted.component, *b"made of it");
        for length in (0..answer_with_more.len()).filter(|length| *length != answer.len()) {
            assert!(found(&answer_with_more[..length], &packet).is_none(), "{length}");
        }
        let refused = found(&answer_admission(b"MZ"), b"MZ").unwrap().unwrap_err();
        assert!(refused.to_string().contains("it is not WebAssembly"), "{refused}");
    }

    #[test]
    fn what_was_found_of_a_component_needs_no_child_again() {
        let packet = r#"(component (instance $i) (export "weir:net/packet@0.1.0" (instance $i)))"#;
        let packet = wat::parse_str(packet).unwrap();
        let admissions = Admissions::default();
        drop(admissions.admit(&Compiler::InProcess, &packet).unwrap());
        admissions.inner().recent = Loaded::default();
        let nobody = Compiler::Child {
            program: "/nowhere".into(),
            arguments: Vec::new(),
            admission: Vec::new(),
            timeout: Duration::from_secs(60),
        };
        let admitted = admissions.admit(&nobody, &packet).unwrap();
        assert_eq!((&*admitted.component, admitted.world), (&*packet, World::Window));
        assert!(admissions.admit(&nobody, b"another").is_err());
    }

    #[test]
    fn a_child_that_comes_to_grief_or_cannot_be_had_admits_nothing() {
        let by = |script: &str, timeout: u64| {
            let compiler = Compiler::Child {
                program: "/bin/sh".into(),
                arguments: Vec::new(),
                admission: vec!["-c".to_owned(), script.to_owned()],
                timeout: std::time::Duration::from_secs(timeout),
            };
            admit_by(&compiler, b"upload").unwrap_err().to_string()
        };
        assert!(by("kill -9 $$", 60).contains("too much memory or time"));
        assert!(by("exec cat", 60).contains("did not answer"));
        assert!(by("exec sleep 60", 0).contains("takes longer than 0ns"));
        let compiler = Compiler::Child {
            program: "/nowhere".into(),
            arguments: Vec::new(),
            admission: Vec::new(),
            timeout: std::time::Duration::from_secs(60),
        };
        let refused = admit_by(&compiler, b"upload").unwrap_err().to_string();
        assert!(refused.contains("nobody can look at it now"), "{refused}");
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
