//! Who compiles: this process, or a child that may die of what it is given.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::compile::CompileError;
use crate::said::one_line;

/// Who compiles.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// This process, without a time limit: for tools that run what their user gives them.
    #[default]
    InProcess,
    /// A child process that reads what it is to compile from standard input and writes what
    /// [`crate::Sandbox::precompile`] makes of it to standard output. It is killed when its time is
    /// up, so an upload that takes forever to compile costs nothing but itself. This process then
    /// compiles nothing.
    Child {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
        /// Its arguments to have it look at an upload instead, and write what
        /// [`crate::answer_admission`] says of that.
        admission: Vec<String>,
        /// Time it has.
        timeout: Duration,
    },
}

/// Longest time between two looks at whether a child has ended.
const LOOKS_AT_MOST: Duration = Duration::from_millis(5);

/// A child says what it could not give up. Every one says the same, so the first is heard.
fn note_what_is_missing(said: &str) {
    static NOTED: Once = Once::new();
    if !said.is_empty() {
        NOTED.call_once(|| tracing::warn!("looking at uploads and compiling: {}", one_line(said)));
    }
}

/// Feeds the child and waits for it, for as long as it has, and for `most` bytes.
pub(crate) fn run_child(
    program: &Path,
    arguments: &[String],
    timeout: Duration,
    order: &[u8],
    most: usize,
) -> Result<Vec<u8>, CompileError> {
    let failed = |source| CompileError::Io {
        what: format!("running the compiler {}", program.display()),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut input = child.stdin.take().expect("piped");
    let output = child.stdout.take().expect("piped");
    let mut errors = child.stderr.take().expect("piped");
    let ended = std::thread::scope(|scope| {
        let begun = || {
            // A child that dies early closes its end: that error is told by its exit status.
            let write = move || drop(input.write_all(order));
            Builder::new().spawn_scoped(scope, write)?;
            let code = Builder::new().spawn_scoped(scope, move || {
                let mut code = Vec::new();
                // One that has more to say finds its end closed.
                output.take(most as u64 + 1).read_to_end(&mut code).map(|_| code)
            })?;
            let said = Builder::new().spawn_scoped(scope, move || {
                let mut said = String::new();
                drop(errors.read_to_string(&mut said));
                said
            })?;
            Ok((code, said))
        };
        // There may be a process to be had, but no thread.
        let (code, said) = begun().inspect_err(|_: &std::io::Error| {
            drop(child.kill());
            drop(child.wait());
        })?;
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(200);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(Some(status)),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LOOKS_AT_MOST);
                }
                Ok(None) => {
                    drop(child.kill());
                    drop(child.wait());
                    break Ok(None);
                }
                Err(error) => break Err(error),
            }
        };
        let code = code.join().expect("reading does not panic");
        let said = said.join().expect("reading does not panic");
        status.and_then(|status| Ok((status, code?, said)))
    });
    match ended.map_err(failed)? {
        (_, answer, _) if answer.len() > most => Err(CompileError::TooLarge(most)),
        (Some(status), code, said) if status.success() => {
            note_what_is_missing(said.trim());
            Ok(code)
        }
        (Some(_), _, said) => Err(CompileError::Component(one_line(said.trim()).into_owned())),
        (None, ..) => Err(CompileError::TooLong(timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_says_too_much_is_not_heard_to_the_end() {
        let run = |script: &str, most| {
            let arguments = ["-c".to_owned(), script.to_owned()];
            run_child(Path::new("/bin/sh"), &arguments, Duration::from_secs(60), b"order", most)
        };
        assert_eq!(run("cat", 5).unwrap(), b"order");
        let environment = String::from_utf8(run("env", 4096).unwrap()).unwrap();
        assert!(!environment.contains("CARGO"), "{environment}");
        assert!(matches!(run("cat", 4), Err(CompileError::TooLarge(4))));
        // It would go on for ever, and whether it dies of that or not does not matter.
        for endless in ["exec cat /dev/zero", "trap '' PIPE; cat /dev/zero; exit 0"] {
            assert!(matches!(run(endless, 1 << 20), Err(CompileError::TooLarge(_))), "{endless}");
        }
    }
}
