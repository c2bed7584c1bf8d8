//! The tutorials in `docs/guide/languages/`, word for word: their `sh` blocks are run one after the
//! other by one shell in a new directory, with the `weir` that was built; a `text` block that comes
//! next is what the block shows. In it, `...` stands for anything on a line, and for any lines if
//! it is all of one.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process_group};
use weir_tests::built::workspace;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("what_is_shown_is_compared", || {
        compares();
        Ok(())
    })];
    let pages =
        fs::read_dir(workspace().join("docs/guide/languages")).expect("the tutorials are there");
    let mut pages: Vec<PathBuf> = pages.map(|entry| entry.expect("an entry").path()).collect();
    pages.sort();
    for page in pages.into_iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let name = page.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        trials.push(Trial::test(name, move || follow(&page)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A block of commands, and what it shows.
struct Step {
    line: usize,
    commands: String,
    shown: Option<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines().enumerate();
    // Whether the last block was one of commands.
    let mut after_commands = false;
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block =
            lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```"));
        let block: String = block.map(|line| format!("{line}\n")).collect();
        match kind.trim() {
            "sh" => steps.push(Step { line: number + 1, commands: block, shown: None }),
            "text" if after_commands => steps.last_mut().expect("there is one").shown = Some(block),
            _ => {}
        }
        after_commands = kind.trim() == "sh";
    }
    steps
}

fn follow(page: &Path) -> Result<(), Failed> {
    let steps = steps(&fs::read_to_string(page)?);
    if steps.is_empty() {
        return Err("the page has no `sh` block".into());
    }
    let directory = tempfile::tempdir()?;
    let shown = tempfile::tempdir()?;
    let mut script = String::from("set -eu\n");
    for (n, step) in steps.iter().enumerate() {
        let output = shown.path().join(n.to_string());
        script.push_str(&format!(
            "{{\n{}}} >'{}' 2>&1 </dev/null\n",
            step.commands,
            output.display()
        ));
    }
    let weir = workspace().join("target/release/weir");
    // The toolchains that scripts/setup installed.
    let tools = workspace().join("target/languages/bin");
    let mut path = vec![weir.parent().unwrap_or(Path::new("/")).to_owned(), tools];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .current_dir(directory.path())
        .env("PATH", std::env::join_paths(path)?)
        .env("NO_COLOR", "1")
        // Rust's own library may have to be built, too, which takes a minute: once for all
        // projects.
        .env("CARGO_BUILD_BUILD_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-projects"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    for variable in [
        "WEIR_API",
        "WEIR_TOKEN",
        "WEIR_TENANT",
        "WEIR_LOG",
        "WEIR",
        "WEIR_SDK",
        "RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(variable);
    }
    let mut shell = command.stdout(Stdio::null()).spawn()?;
    let group = Pid::from_child(&shell);
    let status = shell.wait()?;
    // Hosts that the page started.
    let _ = kill_process_group(group, Signal::TERM);
    let file = page.file_name().unwrap_or_default().to_string_lossy();
    for (n, step) in steps.iter().enumerate() {
        let output = fs::read_to_string(shown.path().join(n.to_string())).unwrap_or_default();
        let begun = shown.path().join((n + 1).to_string()).exists();
        let at = format!("{file}:{}", step.line);
        if !status.success() && !begun {
            return Err(
                format!("{at}: this failed ({status}):\n{}\n{output}", step.commands).into()
            );
        }
        if let Some(expected) = &step.shown
            && !matches(expected, &output)
        {
            return Err(format!(
                "{at}: this shows\n{output}\nand not, as the page says,\n{expected}"
            )
            .into());
        }
    }
    Ok(())
}

/// Whether an output is as it is shown.
fn matches(shown: &str, output: &str) -> bool {
    let shown: Vec<&str> = shown.trim_end().lines().map(str::trim_end).collect();
    let output: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
    lines_match(&shown, &output)
}

fn lines_match(shown: &[&str], output: &[&str]) -> bool {
    match (shown.split_first(), output.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => {
            (0..=output.len()).any(|skipped| lines_match(rest, &output[skipped..]))
        }
        (Some((line, rest)), Some((found, others))) => {
            line_matches(line, found) && lines_match(rest, others)
        }
        _ => false,
    }
}

fn line_matches(shown: &str, found: &str) -> bool {
    let mut parts = shown.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn compares() {
    assert!(matches("a\nb ... d\n", "a  \nb c d\n\n"));
    assert!(matches("...\nlast", "one\ntwo\nlast\n"));
    assert!(matches("first\n...", "first\n"));
    assert!(matches("in ... ms, ... lost", "in 3.1 ms, 0 lost"));
    assert!(!matches("a\nb", "a\nc"));
    assert!(!matches("a", "a\nb"));
    assert!(!matches("in ... ms", "in 3 us"));
    let steps = steps(
        "```sh\none\n```\nwhich shows\n```text\n1\n```\n```toml\nx\n```\n```text\nno\n```\n```sh\ntwo\n```\n",
    );
    let seen: Vec<_> =
        steps.iter().map(|s| (s.line, s.commands.as_str(), s.shown.as_deref())).collect();
    assert_eq!(seen, [(1, "one\n", Some("1\n")), (14, "two\n", None)]);
}
