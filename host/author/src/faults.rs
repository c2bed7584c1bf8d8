//! Faults in one line: what happened, and the line of the author's own code that it happened in.

/// Files that are not the author's.
const OTHERS: [&str; 4] = ["/rustc/", "/.cargo/registry/", "/library/std/", "/sdk/"];

/// What the engine says of a fault, without the frames of the host, of the SDK and of the language's library.
pub(crate) fn short(message: &str) -> String {
    let Some((before, trace)) = message.split_once("error while executing at wasm backtrace:")
    else {
        return message.to_owned();
    };
    let cause = trace.lines().last().and_then(|line| line.split_once(": wasm trap: "));
    let cause = cause.map_or("it trapped", |(_, cause)| cause);
    match place(trace) {
        Some((function, line)) => format!("{before}{cause}, in {function} at {line}"),
        None => message.to_owned(),
    }
}

/// The innermost function of the author's own with its line.
fn place(trace: &str) -> Option<(&str, &str)> {
    let mut function = "";
    for line in trace.lines() {
        if let Some((_, name)) = line.split_once(" - ") {
            function = name.trim();
        } else if let Some(place) = line.trim().strip_prefix("at ")
            && !OTHERS.iter().any(|other| place.contains(other))
        {
            return Some((function, place));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_own_line_is_told() {
        let trace = "function gate 0.1.0 faulted (back-off): trap: error while executing at wasm backtrace:\n    \
                     0:   0xd972 - std::process::abort\n                    at /rustc/5980/library/std/src/process.rs:2533:5\n    \
                     1:   0x1202 - process\n                    at /home/x/gate/src/lib.rs:38:36\n    \
                     2:    0xdfa - process<gate::Gate>\n                    at /home/x/gate/sdk/src/export/instance.rs:63:23\n   \
                     14: 0x1fcb6a - runner-module!<wasm function 18>: wasm trap: wasm `unreachable` instruction executed";
        assert_eq!(
            short(trace),
            "function gate 0.1.0 faulted (back-off): trap: wasm `unreachable` instruction executed, in process at \
             /home/x/gate/src/lib.rs:38:36"
        );
        assert_eq!(short("bad-verdict: see wit/window.md"), "bad-verdict: see wit/window.md");
        let bare = "error while executing at wasm backtrace:\n    0: 0x1 - gate!f: wasm trap: out of bounds";
        assert_eq!(short(bare), bare);
    }
}
