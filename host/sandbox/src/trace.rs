//! Where code trapped: told in the text of a fault as places in the module, which costs the thread
//! that ran it next to nothing, and made lines of source when somebody reads it.
//!
//! A text goes from thread to thread, from a worker's process to the host, into logs and events; so
//! the places are in it, with the component they belong to:
//! `..., in check [gate#38+0x12] < process [gate#40+0x3a]; code 1a2b3c4d5e6f`. [`explain`] makes of
//! that `..., in check at src/lib.rs:38:36 < process at src/lib.rs:71:9`. Machine code has no line
//! tables in it: they are read from the uploaded component, for this. Start code of a linked chain
//! may belong to any of its functions; then all are named.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use wasmtime::WasmBacktrace;
use weir_lines::Lines;

use crate::admit::Admitted;
use crate::compile::{CompileError, hex};
use crate::compiler::run_child;
use crate::function_cache::{put, take};
use crate::said::one_line;

/// Frames that are looked at: more there are only when something recurs.
pub(crate) const FRAMES_MAX: usize = 16;
/// Frames that are shown.
const SHOWN_MAX: usize = 8;
/// Bytes of a function's or a module's name in a text.
const NAME_MAX: usize = 160;
/// Bytes of components that a child is given.
const GIVEN_MAX: usize = 256 << 20;
/// Bytes of a text that a child gives back.
const ANSWER_MAX: usize = 1 << 20;
/// Time that a child has.
const READING: Duration = Duration::from_secs(10);

/// Before the frames, between them, and before the component's name.
const IN: &str = ", in ";
const CALLED_BY: &str = " < ";
const CODE: &str = "; code ";

/// Parts of paths of files that are not the author's: our SDKs and packages, and the languages'
/// libraries: Rust's, wasi-libc and its allocator, C++'s (headers, and as Debian builds it), Zig's.
const OTHERS: [&str; 14] = [
    "sdk/",
    "/.cargo/registry/",
    "/rustc/",
    "/library/",
    "wasi-libc",
    "/libc-bottom-half/",
    "/libc-top-half/",
    "/dlmalloc/src/",
    "/c++/v1/",
    "/libcxx",
    "/llvm-toolchain-",
    "/lib/std/",
    "/lib/libc/",
    "/lib/compiler_rt",
];
/// Parts of names of functions that the SDK's macros make in the author's file, and beginnings of
/// those of the exports, which are the outermost: in Rust's bindings, with line tables only and
/// with all there is.
const MACROS: &str = "weir_sdk::export";
const EXPORTS: [&str; 2] = ["export_", "weir:net/"];
/// Beginnings of names of functions by which Rust's and C's libraries end a program, which are the
/// innermost.
const ENDS: [&str; 7] = ["__rust", "rust_", "std::", "core::", "alloc::", "abort", "__assert_fail"];

/// Components that were admitted, to find them by what [`tag`] makes of them. Those that nobody
/// uses any more go.
static KNOWN: Mutex<Option<HashMap<String, Known>>> = Mutex::new(None);

struct Known {
    admitted: Weak<Admitted>,
    /// A child that read its line tables came to grief.
    unreadable: bool,
}

/// Who reads line tables, if not this process: the program, and its arguments.
static READER: OnceLock<(PathBuf, Vec<String>)> = OnceLock::new();

/// From now on, has children of this process read line tables: this program, which answers on its
/// standard output what [`read_lines`] makes of its standard input, and limits its own memory and
/// time. For who explains faults of code that others uploaded.
pub fn read_lines_in_children(program: PathBuf, arguments: Vec<String>) {
    // Who said it first has said it.
    drop(READER.set((program, arguments)));
}

/// Texts that were explained lately, with what became of them, the newest first: a status is asked
/// for again and again.
static TOLD: Mutex<VecDeque<(String, String)>> = Mutex::new(VecDeque::new());
const TOLD_MAX: usize = 256;

/// Children that read line tables now: each is given a copy of a component, or of several.
static READERS: AtomicUsize = AtomicUsize::new(0);
const READERS_MAX: usize = 8;

/// Texts that [`explain_soon`] was asked for, and that a thread explains one after the other. None:
/// there is no such thread.
static WAITING: Mutex<Option<VecDeque<String>>> = Mutex::new(None);
const WAITING_MAX: usize = 64;

/// A place in code.
#[derive(Debug, PartialEq, Eq)]
struct Frame<'a> {
    name: &'a str,
    module: &'a str,
    function: u32,
    offset: u32,
}

/// What wasmtime says of an error: its causes, and the frames as places.
pub(crate) fn text(error: &wasmtime::Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return one_line(&format!("{error:#}")).into_owned();
    };
    let told = trace.to_string();
    let causes = error.chain().map(ToString::to_string).filter(|cause| *cause != told);
    let causes: Vec<String> = causes
        .map(|cause| cause.strip_prefix("wasm trap: ").map_or(cause.clone(), str::to_owned))
        .collect();
    // What a guest broke a rule with is told, too.
    let mut text = one_line(&causes.join(": ")).into_owned();
    let mut before = IN;
    for frame in trace.frames() {
        let name = frame.func_name().map(|name| format!("{:#}", rustc_demangle::demangle(name)));
        let name = name.unwrap_or_else(|| format!("function {}", frame.func_index()));
        let module = part(frame.module().name().unwrap_or_default());
        let (function, offset) = (frame.func_index(), frame.func_offset().unwrap_or_default());
        let name = part(&name);
        // Writing to a string does not fail.
        let _ = write!(text, "{before}{name} [{module}#{function}+{offset:#x}]");
        before = CALLED_BY;
    }
    text
}

/// A name that the upload has for something: as much of it as fits, without control characters.
fn part(name: &str) -> Cow<'_, str> {
    one_line(&name[..name.floor_char_boundary(NAME_MAX)])
}

/// What wasmtime says of an error in the code of one of these components, for [`explain`]: for
/// errors that are no [`crate::Fault`], because no function was called.
pub fn told<'a>(error: &wasmtime::Error, among: impl IntoIterator<Item = &'a Admitted>) -> String {
    let mut text = text(error);
    tag(&mut text, among.into_iter().map(|admitted| admitted.hash));
    text
}

/// Says to which component the places in a text belong, if nobody has: to one of these.
pub(crate) fn tag(text: &mut String, hashes: impl IntoIterator<Item = [u8; 32]>) {
    let keys: BTreeSet<String> = hashes.into_iter().map(key).collect();
    if !keys.is_empty() && has_places(text) {
        text.push_str(CODE);
        text.push_str(&keys.into_iter().collect::<Vec<_>>().join(","));
    }
}

/// Whether there are places in a text to which no component is said.
fn has_places(text: &str) -> bool {
    text.ends_with(']') && text.contains(IN)
}

/// Whether [`explain`] has something to do.
pub(crate) fn is_tagged(text: &str) -> bool {
    text.rsplit_once(CODE).is_some_and(|(before, _)| has_places(before))
}

/// What a function says, so that it is not taken for what [`tag`] makes.
pub(crate) fn untagged(text: &str) -> String {
    text.replace(CODE, "; code: ")
}

fn key(hash: [u8; 32]) -> String {
    hex(&hash[..6])
}

/// Makes a component known to [`explain`].
pub(crate) fn remember(admitted: &Arc<Admitted>) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.retain(|_, known| known.admitted.strong_count() > 0);
    let unreadable = known.get(&key(admitted.hash)).is_some_and(|known| known.unreadable);
    known.insert(key(admitted.hash), Known { admitted: Arc::downgrade(admitted), unreadable });
}

/// Makes lines of source of the places in a fault's text, as far as the component has line tables:
/// the author's own lines, if there are any. Other texts stay as they are. Takes time that whoever
/// made the component decides about, within bounds if children read ([`read_lines_in_children`];
/// when none can be started now, or enough are at it, the text stays as it is, too): not for
/// threads that carry packets or messages.
#[must_use]
pub fn explain(text: &str) -> String {
    let Some(places) = Places::of(text) else { return text.to_owned() };
    if let Some(explained) = explained_before(text) {
        return explained;
    }
    let components = known(places.codes);
    let components: Vec<&[u8]> = components.iter().map(|known| &*known.component).collect();
    if components.is_empty() {
        return places.explained(&[]);
    }
    let explained = match READER.get() {
        None => places.explained(&components),
        Some(reader) => {
            // The places stay where nobody can be asked, so that whoever reads it next asks again.
            let Some(_reading) = Reading::begin() else { return text.to_owned() };
            match read_in_child(reader, text, places.codes, &components) {
                Ok(lines) => lines.unwrap_or_else(|| places.explained(&[])),
                Err(error) => {
                    tracing::warn!("line tables are not read: {error}");
                    return text.to_owned();
                }
            }
        }
    };
    let mut told = told_before();
    told.truncate(TOLD_MAX - 1);
    told.push_front((text.to_owned(), explained.clone()));
    explained
}

/// The same for who has not only this text to show, and waits for none: where children read, what
/// is not known yet is found out by a thread, for all who ask one text after the other, and has
/// names only until then.
#[must_use]
pub fn explain_soon(text: &str) -> String {
    let Some(places) = Places::of(text) else { return text.to_owned() };
    if let Some(explained) = explained_before(text) {
        return explained;
    }
    if READER.get().is_none() || known(places.codes).is_empty() {
        return explain(text);
    }
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    match waiting.as_mut() {
        Some(texts) if texts.len() == WAITING_MAX || texts.iter().any(|other| other == text) => {}
        Some(texts) => texts.push_back(text.to_owned()),
        None => {
            let thread = std::thread::Builder::new().name("weir-lines".to_owned());
            match thread.spawn(explain_waiting) {
                Ok(_) => *waiting = Some(VecDeque::from([text.to_owned()])),
                Err(error) => tracing::warn!("line tables are not read: no thread: {error}"),
            }
        }
    }
    places.explained(&[])
}

fn explain_waiting() {
    loop {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(text) = waiting.as_mut().and_then(VecDeque::pop_front) else {
            *waiting = None;
            return;
        };
        drop(waiting);
        // It is kept for the next one who asks.
        let _ = explain(&text);
    }
}

/// One of those who may have a child read now.
struct Reading;

impl Reading {
    fn begin() -> Option<Self> {
        let one_more = |readers| (readers < READERS_MAX).then_some(readers + 1);
        let begun = READERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.ok().map(|_| Self)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a child of [`read_lines_in_children`] does: what the host asks in, what [`explain`] is to
/// answer out. None: nobody asks that.
#[must_use]
pub fn read_lines(mut question: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(take(&mut question)?).ok()?;
    let mut components = Vec::new();
    while !question.is_empty() {
        components.push(take(&mut question)?);
    }
    Some(Places::of(text)?.explained(&components))
}

/// None: it cannot be read. An error: no child could be started, or asked.
fn read_in_child(
    (program, arguments): &(PathBuf, Vec<String>),
    text: &str,
    codes: &str,
    components: &[&[u8]],
) -> Result<Option<String>, CompileError> {
    let bytes: usize = components.iter().map(|component| component.len()).sum();
    let mut why = format!("it has {bytes} bytes, and at most {GIVEN_MAX} are read");
    if bytes <= GIVEN_MAX {
        let mut question = Vec::new();
        put(&mut question, text.as_bytes());
        components.iter().for_each(|component| put(&mut question, component));
        why = match run_child(program, arguments, READING, &question, ANSWER_MAX) {
            Ok(answer) => return Ok(Some(String::from_utf8_lossy(&answer).into_owned())),
            Err(error @ CompileError::Io { .. }) => return Err(error),
            Err(_) => "that takes too much memory or time".to_owned(),
        };
    }
    tracing::warn!("line tables of the component {codes} are not read: {why}");
    if let [_] = components {
        bar(codes);
    }
    Ok(None)
}

/// What was made of this text before, if it was.
fn explained_before(text: &str) -> Option<String> {
    let told = told_before();
    told.iter().find(|(before, _)| before == text).map(|(_, explained)| explained.clone())
}

fn told_before() -> MutexGuard<'static, VecDeque<(String, String)>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text with places in it, taken apart.
struct Places<'a> {
    cause: &'a str,
    frames: Vec<Frame<'a>>,
    codes: &'a str,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (before, codes) = text.rsplit_once(CODE)?;
        let (cause, frames) = before.rsplit_once(IN)?;
        let frames = frames.split(CALLED_BY).map(frame).collect::<Option<_>>()?;
        Some(Self { cause, frames, codes })
    }

    /// The text with lines of these components; with names only, if there are none.
    fn explained(&self, components: &[&[u8]]) -> String {
        let mut lines: Vec<Lines<'_>> =
            components.iter().map(|component| Lines::of(component)).collect();
        if lines.len() > 1 {
            // Functions of a chain whose modules have the same names cannot be told from each
            // other.
            lines.retain(|lines| self.frames.iter().any(|frame| lines.has(frame.module)));
        }
        let lines = if lines.len() == 1 { lines.remove(0) } else { Lines::default() };
        format!("{}{IN}{}", self.cause, one_line(&shown(&self.frames, &lines)))
    }
}

/// The components that a text names; none if one of them is gone, or cannot be read.
fn known(codes: &str) -> Vec<Arc<Admitted>> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = known.as_ref() else { return Vec::new() };
    let readable = |code| known.get(code).filter(|known| !known.unreadable)?.admitted.upgrade();
    codes.split(',').map(readable).collect::<Option<_>>().unwrap_or_default()
}

/// Has nobody read the line tables of this component again. Of several it is not known whose they
/// were.
fn bar(code: &str) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known.as_mut().and_then(|known| known.get_mut(code)) {
        known.unreadable = true;
    }
}

fn frame(text: &str) -> Option<Frame<'_>> {
    let (name, place) = text.strip_suffix(']')?.rsplit_once(" [")?;
    let (module, place) = place.rsplit_once('#')?;
    let (function, offset) = place.split_once("+0x")?;
    let (function, offset) = (function.parse().ok()?, u32::from_str_radix(offset, 16).ok()?);
    Some(Frame { name, module, function, offset })
}

/// Whether the file of a line may be the author's.
fn is_own(line: &str) -> bool {
    !OTHERS.iter().any(|other| line.contains(other))
}

fn shown(frames: &[Frame<'_>], lines: &Lines<'_>) -> String {
    // Frames of other modules are those of the chain around the function.
    let own = frames.iter().filter(|frame| lines.is_empty() || lines.has(frame.module));
    // A function, its line, and whether that may be the author's.
    let mut all: Vec<(String, Option<String>, bool)> = Vec::new();
    for frame in own {
        let places = lines.of_place(frame.module, frame.function, frame.offset);
        if places.is_empty() {
            all.push((frame.name.to_owned(), None, false));
        }
        for place in places {
            let function = place.function.unwrap_or_else(|| frame.name.to_owned());
            let own = !place.foreign && is_own(&place.line) && !function.contains(MACROS);
            all.push((function, Some(place.line), own));
        }
    }
    if all.iter().any(|(.., own)| *own) {
        all.retain(|(.., own)| *own);
        if all.len() > 1
            && let Some((outermost, ..)) = all.last()
            && EXPORTS.iter().any(|export| outermost.starts_with(export))
        {
            all.pop();
        }
    } else {
        let ends =
            |(function, ..): &(String, _, _)| ENDS.iter().any(|end| function.starts_with(end));
        let first = all.iter().position(|function| !ends(function));
        all.drain(..first.unwrap_or_default());
    }
    let all = all.into_iter().take(SHOWN_MAX).map(|(function, line, _)| {
        let function = &function[..function.floor_char_boundary(NAME_MAX)];
        line.map_or_else(|| function.to_owned(), |line| format!("{function} at {line}"))
    });
    all.collect::<Vec<_>>().join(CALLED_BY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_places_stays_as_it_is() {
        for text in [
            "bad-verdict: packet 3 (60 bytes): verdict 0x00000063: there is no kind 99",
            "it is, in short, wrong; code 12",
            "trap: x, in f [m#1+0x2]",
            "trap: x, in f [m#1+0x2] < g [; code 000000000000",
            "trap: x, in f [m#99999999999+0x2]; code 000000000000",
        ] {
            assert_eq!(explain(text), text);
        }
    }

    #[test]
    fn children_that_read_are_counted_and_who_shows_many_texts_waits_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        let script = format!(
            "cat > /dev/null; while [ ! -e {} ]; do sleep 0.02; done; echo told",
            gate.display()
        );
        read_lines_in_children("/bin/sh".into(), vec!["-c".to_owned(), script]);
        let admitted = Arc::new(Admitted {
            component: Vec::new().into(),
            hash: [0xef; 32],
            world: crate::World::Window,
            saves: false,
            imports: Vec::new(),
            memories_at_start: 0,
            memory_at_start: 0,
            manifest: None,
        });
        remember(&admitted);
        let text = |n: usize| {
            let mut text = format!("trap: x, in f [m#{n}+0x1]");
            tag(&mut text, [admitted.hash]);
            text
        };
        let until = |what: &dyn Fn() -> bool| {
            while !what() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        assert_eq!(explain_soon(&text(0)), "trap: x, in f");
        std::thread::scope(|scope| {
            let readers: Vec<_> = (1..READERS_MAX)
                .map(|n| {
                    scope.spawn(move || {
                        explain(&format!("trap: x, in f [m#{n}+0x1]; code efefefefefef"))
                    })
                })
                .collect();
            until(&|| READERS.load(Ordering::Relaxed) == READERS_MAX);
            // One too many, and one that need not wait for any of them.
            assert_eq!(explain(&text(99)), text(99));
            assert_eq!(explain_soon(&text(100)), "trap: x, in f");
            std::fs::write(gate, "").unwrap();
            for reader in readers {
                assert_eq!(reader.join().unwrap().trim(), "told");
            }
        });
        for n in [0, 100] {
            until(&|| explain_soon(&text(n)).trim() == "told");
        }
    }

    #[test]
    fn files_of_languages_libraries_are_not_the_authors() {
        for line in [
            // As Debian's libraries for wasm32-wasi, Zig's and rustc's name them.
            "././libc-top-half/musl/src/exit/assert.c:7:2",
            "././libc-bottom-half/sources/abort.c:5:3",
            "././dlmalloc/src/dlmalloc.c:99:1",
            "/build/reproducible-path/llvm-toolchain-19-19.1.7/libcxxabi/src/abort_message.cpp:78:5",
            "/usr/lib/llvm-19/include/wasm32-wasi/c++/v1/vector:1420:5",
            "/home/me/.venv/lib/python3.11/site-packages/ziglang/lib/std/debug.zig:412:14",
            "/rustc/0123456789abcdef/library/core/src/panicking.rs:75:14",
        ] {
            assert!(!is_own(line), "{line}");
        }
        for line in ["main.c:45:34", "/home/me/ttl-guard/src/lib.rs:38:21", "/srv/std/main.zig:1:1"]
        {
            assert!(is_own(line), "{line}");
        }
    }

    #[test]
    fn a_component_that_is_gone_leaves_names() {
        let mut text = "trap: x, in a [b] [m#1+0x2] < <c as d>::e [#3+0x4]".to_owned();
        tag(&mut text, [[0xab; 32]]);
        assert!(text.ends_with("; code abababababab"), "{text}");
        assert_eq!(explain(&text), "trap: x, in a [b] < <c as d>::e");
    }

    #[test]
    fn of_names_those_of_a_librarys_end_are_left_out() {
        let told = |names: &[&str]| {
            let places: Vec<_> = names.iter().map(|name| format!("{name} [m#1+0x2]")).collect();
            let mut text = format!("trap: unreachable, in {}", places.join(CALLED_BY));
            tag(&mut text, [[0xcd; 32]]);
            explain(&text)
        };
        let rust = [
            "__rustc::__rust_abort",
            "std::process::abort",
            "rust_panic",
            "core::panicking::panic_fmt",
        ];
        let own = ["gate::check", "core::ops::function::FnOnce::call_once", "gate::process"];
        let ended = [&rust[..], &own].concat();
        let shown = own.join(CALLED_BY);
        assert_eq!(told(&ended), format!("trap: unreachable, in {shown}"));
        // Better than nothing.
        assert_eq!(told(&rust), format!("trap: unreachable, in {}", rust.join(CALLED_BY)));
    }
}
