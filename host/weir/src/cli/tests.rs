//! The command line's promises.

use clap::{CommandFactory as _, Parser as _};

use super::Cli;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// The reference: the help of all commands, one after the other; what all of them take once.
fn reference() -> String {
    fn add(command: &clap::Command, path: &str, page: &mut String) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            let help = sub.clone().bin_name(&path).term_width(100).render_help().to_string();
            let own = help.split("\nGlobal options:").next().unwrap_or_default();
            page.push_str(&format!("\n## `{path}`\n\n```text\n{}\n```\n", own.trim_end()));
            add(sub, &path, page);
        }
    }
    let mut command = Cli::command().term_width(100);
    command.build();
    let help = command.render_long_help().to_string();
    let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let mut page = format!(
        "# The command line\n\nWhat `--help` says, command by command. `weir man` writes the same as a manual page.\n\n```text\n{help}```\n"
    );
    add(&command, "weir", &mut page);
    page
}

/// `WEIR_BLESS=1` writes it anew.
#[test]
fn the_reference_is_as_the_commands_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(written, reference(), "run this test with WEIR_BLESS=1, and look at the difference");
}

#[test]
fn the_documented_lines_are_understood() {
    for line in [
        "weir run --config weir.toml",
        "weir replay --chain C.toml --in A.pcap --out B.pcap --report json --output json",
        "weir check FILE.wasm",
        "weir function push FILE.wasm --name n --version 1.0.0 --manifest M.toml",
        "weir function list --output json",
        "weir function remove n --version 1.0.0",
        "weir function swap n --to 1.0.0 --canary 10",
        "weir function swap n --to 1.0.0 --shadow",
        "weir function rollback n",
        "weir function rollback n --from 1.0.0",
        "weir function log n -f --tail 10 --since 10m",
        "weir chain apply C.toml",
        "weir run --check",
        "weir steer list",
        "weir steer apply S.toml",
        "weir top -n 1 --interval 5",
        "weir events --follow --after 7",
        "weir tenant add acme --description x",
        "weir --tenant acme token add --role viewer",
        "weir port list",
        "weir --api http://127.0.0.1:7300 --token t --color never -q status",
        "weir bench --chain C.toml --size 64 --flows 10000 --burst 32 --seconds 5 --cores 1 --mode separate",
        "weir completions bash",
        "weir man",
    ] {
        if let Err(error) = Cli::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_usage_is_told_with_status_2() {
    for arguments in [
        &["weir"][..],
        &["weir", "nope"],
        &["weir", "function", "swap", "fw"],
        &["weir", "function", "swap", "fw", "--to", "1"],
        &["weir", "function", "swap", "fw", "--to", "1.0.0", "--canary", "0"],
        &["weir", "function", "swap", "fw", "--to", "1.0.0", "--canary", "5", "--shadow"],
        &["weir", "function", "show", "Not-A-Name"],
        &["weir", "bench", "--chain", "c.toml", "--size", "10"],
        &["weir", "status", "-q", "-v"],
    ] {
        let error = Cli::try_parse_from(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}
