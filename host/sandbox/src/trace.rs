//! Where code trapped: told in the text of a fault as places in the module, which costs the thread that ran it next to nothing, and made
//! lines of source when somebody reads it.
//!
//! A text goes from thread to thread, from a worker's process to the host, into logs and events; so the places are in it, with the
//! component they belong to: `..., in check [gate#38+0x12] < process [gate#40+0x3a]; code 1a2b3c4d5e6f`. [`explain`] makes of
//! that `..., in check at src/lib.rs:38:36 < process at src/lib.rs:71:9`. Machine code has no line tables in it: they are
//! read from the uploaded component, for this. Start code of a linked chain may belong to any of its functions; then all are named.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wasmtime::WasmBacktrace;

use crate::admit::Admitted;
use crate::lines::Lines;
use crate::said::one_line;

/// Frames that are shown.
const SHOWN_MAX: usize = 8;
/// Bytes of a function's or a module's name in a text.
const NAME_MAX: usize = 160;

/// Before the frames, between them, and before the component's name.
const IN: &str = ", in ";
const CALLED_BY: &str = " < ";
const CODE: &str = "; code ";

/// Parts of paths of files that are not the author's: the language's library, packages, and our SDKs.
const OTHERS: [&str; 6] =
    ["/rustc/", "/.cargo/registry/", "/library/", "sdk/", "wasi-libc", "/libc-bottom-half/"];
/// Parts of names of functions that the SDK's macros make in the author's file, and beginnings of those of the exports, which are
/// the outermost: in Rust's bindings, with line tables only and with all there is.
const MACROS: &str = "weir_sdk::export";
const EXPORTS: [&str; 2] = ["export_", "weir:net/"];

/// Components that were admitted, to find them by what [`tag`] makes of them. Those that nobody uses any more go.
static KNOWN: Mutex<Option<HashMap<String, Weak<Admitted>>>> = Mutex::new(None);

/// Texts that were explained lately, with what became of them, the newest first: a status is asked for again and again.
static TOLD: Mutex<VecDeque<(String, String)>> = Mutex::new(VecDeque::new());
const TOLD_MAX: usize = 32;

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

/// What wasmtime says of an error in the code of one of these components, for [`explain`]: for errors that are no [`crate::Fault`],
/// because no function was called.
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

fn key(hash: [u8; 32]) -> String {
    hash[..6].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes a component known to [`explain`].
pub(crate) fn remember(admitted: &Arc<Admitted>) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.retain(|_, admitted| admitted.strong_count() > 0);
    known.insert(key(admitted.hash), Arc::downgrade(admitted));
}

/// Makes lines of source of the places in a fault's text, as far as the component has line tables: the author's own lines, if there
/// are any. Other texts stay as they are. Takes time that whoever made the component decides about, within bounds: not for
/// threads that carry packets or messages.
#[must_use]
pub fn explain(text: &str) -> String {
    let Some((before, codes)) = text.rsplit_once(CODE) else { return text.to_owned() };
    let Some((cause, frames)) = before.rsplit_once(IN) else { return text.to_owned() };
    let frames: Vec<Option<Frame<'_>>> = frames.split(CALLED_BY).map(frame).collect();
    let Some(frames) = frames.into_iter().collect::<Option<Vec<_>>>() else {
        return text.to_owned();
    };
    let told = || TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, explained)) = told().iter().find(|(before, _)| before == text) {
        return explained.clone();
    }
    let components = known(codes);
    let mut lines: Vec<Lines<'_>> =
        components.iter().map(|admitted| Lines::of(&admitted.component)).collect();
    if lines.len() > 1 {
        // Functions of a chain whose modules have the same names cannot be told from each other.
        lines.retain(|lines| frames.iter().any(|frame| lines.has(frame.module)));
    }
    let lines = if lines.len() == 1 { lines.remove(0) } else { Lines::default() };
    let explained = format!("{cause}{IN}{}", one_line(&shown(&frames, &lines)));
    if !lines.is_empty() {
        let mut told = told();
        told.truncate(TOLD_MAX - 1);
        told.push_front((text.to_owned(), explained.clone()));
    }
    explained
}

/// The components that a text names; none if one of them is gone.
fn known(codes: &str) -> Vec<Arc<Admitted>> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = known.as_ref() else { return Vec::new() };
    let codes = codes.split(',').map(|code| known.get(code)?.upgrade());
    codes.collect::<Option<_>>().unwrap_or_default()
}

fn frame(text: &str) -> Option<Frame<'_>> {
    let (name, place) = text.strip_suffix(']')?.rsplit_once(" [")?;
    let (module, place) = place.rsplit_once('#')?;
    let (function, offset) = place.split_once("+0x")?;
    let (function, offset) = (function.parse().ok()?, u32::from_str_radix(offset, 16).ok()?);
    Some(Frame { name, module, function, offset })
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
            let own = !place.foreign
                && !OTHERS.iter().any(|other| place.line.contains(other))
                && !function.contains(MACROS);
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
    }
    let all = all.into_iter().take(SHOWN_MAX).map(|(function, line, _)| match line {
        Some(line) => format!("{function} at {line}"),
        None => function,
    });
    all.collect::<Vec<_>>().join(CALLED_BY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_places_stays_as_it_is() {
        for text in [
            "bad-verdict: see wit/window.md",
            "it is, in short, wrong; code 12",
            "trap: x, in f [m#1+0x2]",
            "trap: x, in f [m#1+0x2] < g [; code 000000000000",
            "trap: x, in f [m#99999999999+0x2]; code 000000000000",
        ] {
            assert_eq!(explain(text), text);
        }
    }

    #[test]
    fn a_component_that_is_gone_leaves_names() {
        let mut text = "trap: x, in a [b] [m#1+0x2] < <c as d>::e [#3+0x4]".to_owned();
        tag(&mut text, [[0xab; 32]]);
        assert!(text.ends_with("; code abababababab"), "{text}");
        assert_eq!(explain(&text), "trap: x, in a [b] < <c as d>::e");
    }
}
