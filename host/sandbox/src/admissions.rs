//! What was admitted, so that it is looked at once: chains that use the same upload share its
//! bytes, and an upload is not looked at again on its way from being checked to being compiled and
//! deployed, nor when it is brought back or the host starts ([`Answers`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::admit::{Admitted, Refused, UPLOAD_MAX, admit};
use crate::answers::Answers;
use crate::compile::CompileError;
use crate::compiler::{Compiler, run_child};
use crate::function_cache::{Hash, put, take};
use crate::loaded::Loaded;

/// Bytes of the components that are kept although nobody uses them any more, or yet.
const RECENT_MAX: usize = 16 << 20;
/// How often a child is tried that cannot be started, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of what a child says of an upload: what it made of it, and what it found, of which a
/// manifest has most.
const ANSWER_MAX: usize = 2 * UPLOAD_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    /// On disk, if there is a place for them.
    answers: Option<Answers>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the SHA-256 of the upload; with each whether the disk has been given it.
    known: HashMap<Hash, (Weak<Admitted>, bool)>,
    /// The last ones, the newest behind.
    recent: Loaded<Hash, Arc<Admitted>>,
}

impl Admissions {
    pub(crate) fn new(answers: Option<Answers>) -> Self {
        Self { answers, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`admit`] by this compiler, unless it is known; the disk has it from then on.
    ///
    /// # Errors
    /// As [`admit`], and when a child does not come to an end.
    pub(crate) fn admit(
        &self,
        compiler: &Compiler,
        upload: &[u8],
    ) -> Result<Arc<Admitted>, Refused> {
        self.find(compiler, upload, true)
    }

    /// The same, but the disk is not given it.
    ///
    /// # Errors
    /// As for [`Self::admit`].
    pub(crate) fn look_at(
        &self,
        compiler: &Compiler,
        upload: &[u8],
    ) -> Result<Arc<Admitted>, Refused> {
        self.find(compiler, upload, false)
    }

    fn find(
        &self,
        compiler: &Compiler,
        upload: &[u8],
        keep: bool,
    ) -> Result<Arc<Admitted>, Refused> {
        let hash = Sha256::digest(upload).into();
        let known = self.inner().known(&hash);
        let (admitted, kept) = match known {
            Some((admitted, kept)) if kept || !keep => return Ok(admitted),
            Some(known) => known,
            None => match self.kept(&hash, upload) {
                Some(admitted) => (Arc::new(admitted), true),
                None => (Arc::new(admit_by(compiler, upload)?), false),
            },
        };
        if let Some(answers) = self.answers.as_ref().filter(|_| keep && !kept) {
            answers.keep(&hash, &answer(Ok(&admitted), upload));
        }
        self.inner().insert(hash, &admitted, keep || kept);
        Ok(admitted)
    }

    /// What the disk has.
    fn kept(&self, hash: &Hash, upload: &[u8]) -> Option<Admitted> {
        read_answer(&self.answers.as_ref()?.get(hash, ANSWER_MAX)?, upload)?.ok()
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
        CompileError::Io { .. } => Refused::unknown(format!(
            "nobody can look at it now: {error}: try again when there are memory and processes for it"
        )),
        CompileError::TooLong(_) => Refused::unknown(format!(
            "it is not known whether it is valid: that takes longer than {timeout:?}: make it smaller, or split it"
        )),
        error => {
            tracing::warn!("whether an upload is valid was not found out: {error}");
            Refused::unknown(
                "it is not known whether it is valid: to find out takes too much memory or time: make it smaller, or split it",
            )
        }
    })?;
    read_answer(&answer, upload).unwrap_or_else(|| {
        let program = program.display();
        Err(Refused::because(format!("{program} did not answer with what it found")))
    })
}

/// What the child of [`Compiler::Child`] says of an upload: what [`admit`] does, and the component
/// if it is not the upload itself.
#[must_use]
pub fn answer_admission(upload: &[u8]) -> Vec<u8> {
    answer(admit(upload).as_ref(), upload)
}

fn answer(found: Result<&Admitted, &Refused>, upload: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    // Of strings and numbers: that cannot fail.
    put(&mut answer, &serde_json::to_vec(&found).unwrap_or_default());
    if let Ok(admitted) = found
        && *admitted.component != *upload
    {
        put(&mut answer, &admitted.component);
    }
    answer
}

/// Reads what [`answer`] wrote of this upload; none when it is cut off.
fn read_answer(mut answer: &[u8], upload: &[u8]) -> Option<Result<Admitted, Refused>> {
    let mut found: Result<Admitted, Refused> = serde_json::from_slice(take(&mut answer)?).ok()?;
    if let Ok(admitted) = &mut found {
        let made = if answer.is_empty() { None } else { Some(take(&mut answer)?) };
        admitted.component = made.unwrap_or(upload).into();
    }
    Some(found)
}

impl Inner {
    fn known(&self, hash: &Hash) -> Option<(Arc<Admitted>, bool)> {
        let (admitted, kept) = self.known.get(hash)?;
        Some((admitted.upgrade()?, *kept))
    }

    fn insert(&mut self, hash: Hash, admitted: &Arc<Admitted>, kept: bool) {
        self.recent.insert(hash, Arc::clone(admitted), admitted.component.len(), RECENT_MAX);
        self.known.retain(|_, (admitted, _)| admitted.strong_count() > 0);
        self.known.insert(hash, (Arc::downgrade(admitted), kept));
        crate::trace::remember(admitted);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::admit::World;
    use crate::code_cache::CodeCache;
    use crate::compile::SandboxConfig;

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

    /// A host that is started again and again: its children answer what the file `answer` says, and
    /// note in `asked` that they were asked.
    struct Starts {
        directory: tempfile::TempDir,
        config: SandboxConfig,
    }

    impl Starts {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name| directory.path().join(name);
            let (asked, answer) = (path("asked"), path("answer"));
            let script = format!("echo >> {}; exec cat {}", asked.display(), answer.display());
            let compiler = Compiler::Child {
                program: "/bin/sh".into(),
                arguments: Vec::new(),
                admission: vec!["-c".to_owned(), script],
                timeout: Duration::from_secs(60),
            };
            let cache = CodeCache::new(path("cache"), 1 << 30, 0);
            cache.make().unwrap();
            let config = SandboxConfig { cache: Some(cache), compiler, ..Default::default() };
            Self { directory, config }
        }

        fn answer(&self, answer: &[u8]) {
            std::fs::write(self.directory.path().join("answer"), answer).unwrap();
        }

        /// One start, which admits this.
        fn admit(&self, upload: &[u8]) -> Result<Arc<Admitted>, Refused> {
            let admissions = Admissions::new(Answers::new(&self.config));
            admissions.look_at(&self.config.compiler, upload)?;
            admissions.admit(&self.config.compiler, upload)
        }

        /// Children until now.
        fn children(&self) -> usize {
            std::fs::read(self.directory.path().join("asked")).map_or(0, |asked| asked.len())
        }

        /// What is on disk.
        fn entries(&self) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(self.directory.path().join("cache")).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        }
    }

    /// A component that may run; the number makes it another content.
    fn component(number: u32) -> Vec<u8> {
        wat::parse_str(format!(
            r#"(component (@custom "number" "{number}")
                (instance $i) (export "weir:net/packet@0.1.0" (instance $i)))"#
        ))
        .unwrap()
    }

    #[test]
    fn what_a_child_found_needs_none_at_the_next_start() {
        let starts = Starts::new();
        let upload = component(1);
        starts.answer(&answer_admission(&upload));
        for _ in 0..3 {
            let admitted = starts.admit(&upload).unwrap();
            assert_eq!((&*admitted.component, admitted.world), (&*upload, World::Window));
            assert_eq!((starts.children(), starts.entries().len()), (1, 1));
        }
        // With what was made of it.
        let mut made = answer_admission(&upload);
        put(&mut made, b"made of it");
        starts.answer(&made);
        for _ in 0..2 {
            assert_eq!(*starts.admit(b"module").unwrap().component, *b"made of it");
            assert_eq!(starts.children(), 2);
        }
    }

    #[test]
    fn nothing_is_kept_of_what_is_refused_or_only_looked_at() {
        let starts = Starts::new();
        starts.answer(&answer_admission(b"MZ"));
        for n in 1..4 {
            assert!(starts.admit(b"MZ").unwrap_err().to_string().contains("not WebAssembly"));
            assert_eq!(starts.children(), n);
        }
        let upload = component(1);
        starts.answer(&answer_admission(&upload));
        let admissions = Admissions::new(Answers::new(&starts.config));
        admissions.look_at(&starts.config.compiler, &upload).unwrap();
        assert_eq!(starts.entries(), Vec::<PathBuf>::new());
        // Wherever a refusal comes from, it is not believed.
        starts.admit(&upload).unwrap();
        let answers = Answers::new(&starts.config).unwrap();
        answers.keep(&Sha256::digest(&upload).into(), &answer_admission(b"MZ"));
        starts.admit(&upload).unwrap();
        assert_eq!(starts.children(), 6);
    }

    #[test]
    fn another_child_is_asked_anew() {
        let mut starts = Starts::new();
        let upload = component(1);
        starts.answer(&answer_admission(&upload));
        starts.admit(&upload).unwrap();
        let was = starts.config.compiler.clone();
        let Compiler::Child { admission, .. } = &mut starts.config.compiler else { unreachable!() };
        admission.push("--beside=0".to_owned());
        starts.admit(&upload).unwrap();
        assert_eq!(starts.children(), 2);
        // The same script, by another program.
        starts.config.compiler = was.clone();
        let Compiler::Child { program, .. } = &mut starts.config.compiler else { unreachable!() };
        *program = "/bin/bash".into();
        starts.admit(&upload).unwrap();
        assert_eq!(starts.children(), 3);
        starts.config.compiler = was;
        starts.admit(&upload).unwrap();
        assert_eq!((starts.children(), starts.entries().len()), (3, 3));
    }

    #[test]
    fn what_is_damaged_or_of_another_upload_is_found_anew() {
        let starts = Starts::new();
        let upload = component(1);
        starts.answer(&answer_admission(&upload));
        starts.admit(&upload).unwrap();
        let [path] = &starts.entries()[..] else { panic!("{:?}", starts.entries()) };
        let whole = std::fs::read(path).unwrap();
        let mut children = starts.children();
        let mut found_anew = |what: &str, content: &[u8]| {
            std::fs::write(path, content).unwrap();
            starts.admit(&upload).unwrap();
            children += 1;
            assert_eq!(starts.children(), children, "{what}");
            assert_eq!(std::fs::read(path).unwrap(), whole, "{what}");
        };
        for length in (0..whole.len()).step_by(13) {
            found_anew("cut off", &whole[..length]);
        }
        for at in (0..whole.len()).step_by(13) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            found_anew("changed", &changed);
        }
        found_anew("longer", &[&whole[..], b"x"].concat());
        // Whole, but nothing that a child says.
        let keep = |content: &[u8]| {
            starts.config.cache.as_ref().unwrap().keep("nonsense", content);
            std::fs::read(path.with_file_name("nonsense")).unwrap()
        };
        found_anew("nonsense", &keep(&[&whole[..64], &[0xff; 100]].concat()));
        let (head, rest) = whole[..whole.len() - 32].split_at(32);
        let other = [head, &Sha256::digest(component(2))[..], &rest[32..]].concat();
        found_anew("of another", &keep(&other));
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
        starts.admit(&upload).unwrap();
        assert_eq!(starts.children(), children + 1);
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
                .filter_map(|(hash, (admitted, _))| admitted.upgrade().map(|_| hash[0]))
                .collect();
            known.sort_unstable();
            known
        };
        let used = admitted(RECENT_MAX / 2);
        inner.insert([1; 32], &used, false);
        inner.insert([2; 32], &admitted(RECENT_MAX / 2), false);
        assert_eq!(known(&inner), [1, 2]);
        inner.insert([3; 32], &admitted(1), false);
        assert_eq!(known(&inner), [1, 2, 3], "the first is in use");
        inner.insert([4; 32], &admitted(RECENT_MAX), false);
        assert_eq!(known(&inner), [1, 4]);
        inner.insert([5; 32], &admitted(RECENT_MAX + 1), false);
        assert_eq!(known(&inner), [1], "what is too large is not kept");
    }
}
