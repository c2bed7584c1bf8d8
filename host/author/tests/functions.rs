//! Functions that come with Weir, tested as their authors would.

use std::path::Path;

use weir_author::suite::Suite;
use weir_author::tester::{Report, Tester};
use weir_spec::Document;
use weir_tests::built::{built_file, changed_template, message_probe};

fn run(function: &str, tests: &str) -> Report {
    run_file(&built_file(function), tests)
}

fn run_file(function: &Path, tests: &str) -> Report {
    let mut tester = Tester::new(function, None, None, None).unwrap();
    let suite =
        Document::<Suite>::parse("weir-test.toml", tests).unwrap_or_else(|error| panic!("{error}"));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk");
    tester.suite(&suite, &directory).unwrap_or_else(|error| panic!("{error:#}"));
    tester.report()
}

fn problems(report: &Report) -> String {
    report.tests.iter().flat_map(|test| test.problems.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn packets_through_the_firewall() {
    let report = run(
        "firewall",
        r#"
        [[test]]
        name = "names and the web"
        in = "sample.pcap"
        config = { default = "deny", rules = [
            { action = "allow", proto = "udp", dport = 53 }, { action = "allow", proto = "tcp", dport = 443 } ] }
        ports = ["lan", "wan"]
        expect.drop = [3, 5, 6, 7, 9, 10]
        expect.out = 4
        expect.verdicts = { drop = 6, next = 4 }
        expect.gauges = { flows = 3 }

        [[test]]
        name = "no such default"
        config = { default = "dney" }
        expect.refused = "dney"
        "#,
    );
    assert_eq!((report.passed, report.failed), (2, 0), "{}", problems(&report));
    assert_eq!(report.coverage.refused, 1);
    assert_eq!(report.coverage.verdicts["drop"], 6);
    assert_eq!(report.coverage.verdicts["reply"], 0);
}

#[test]
fn a_changed_packet_is_known_by_its_number_and_shown() {
    let report = run(
        "macswap",
        "[[test]]\nname = \"x\"\nin = \"sample.pcap\"\nexpect.drop = []\nexpect.capture = \"sample.pcap\"\n",
    );
    assert_eq!(report.failed, 1);
    let problems = problems(&report);
    assert!(
        problems.contains("packet 2 of sample.pcap leaves otherwise, as number 2:"),
        "{problems}"
    );
    assert!(problems.contains("Ethernet II"), "{problems}");
    assert!(problems.contains("and 2 more differences"), "{problems}");
    assert!(!problems.contains("dropped"), "{problems}");
}

#[test]
fn requests_through_rewrite() {
    let tests = |status: u16| {
        format!(
            r#"
            [[test]]
            name = "x"
            config = {{ rules = [ {{ response = {{ remove = ["server"] }} }} ] }}
            [[test.exchange]]
            request = {{ method = "POST", path = "/a/../b?c=%20", body = "hello", fields = {{ x-a = "1" }} }}
            response = {{ status = 201, body = "made", fields = {{ server = "nginx", x-b = "2" }} }}
            expect.status = {status}
            expect.body = "made"
            expect.fields = {{ server = false, x-b = "2" }}
            expect.upstream = {{ method = "POST", path = "/a/../b?c=%20", body = "hello", fields = {{ x-a = "1", x-c = false }} }}
            [[test.exchange]]
            expect.upstream = true
            "#
        )
    };
    let report = run("rewrite", &tests(201));
    assert_eq!((report.passed, report.failed), (1, 0), "{}", problems(&report));
    assert_eq!(report.tests[0].exchanges, 2);
    assert!(report.coverage.verdicts["continue"] >= 2, "{:?}", report.coverage.verdicts);
    let report = run("rewrite", &tests(200));
    assert_eq!(problems(&report), "exchange 1 (POST /a/../b?c=%20): status: expected 200, got 201");
}

#[test]
fn an_answer_of_the_functions_own_does_not_reach_the_upstream() {
    let report = run(
        "waf",
        r#"
        [[test]]
        name = "x"
        [[test.exchange]]
        request = { path = "/?q=%27%20or%201=1--%20" }
        expect.status = 403
        expect.upstream = false
        [[test.exchange]]
        request = { path = "/?q=fine" }
        expect.upstream = { path = "/other" }
        "#,
    );
    assert_eq!(
        problems(&report),
        "exchange 2 (GET /?q=fine): upstream: path: expected /other, got /?q=fine"
    );
}

/// `tcp-policy` holds a connection's first bytes until they tell what is spoken.
fn policy(arrives: &str, last: &str) -> Report {
    let tests = r#"
        [[test]]
        name = "x"
        config = { rules = [ { action = "deny", client = ["127.0.0.9"] }, { action = "allow", protocol = ["ssh"] },
                             { action = "deny", protocol = ["http", "tls"] } ] }
        expect.counters = { allowed = 2, denied = 2 }
        [[test.connection]]
        steps = [
            { client = "SS", arrives = false },
            { upstream = "SSH-2.0-server\r\n" },
            { client = "H-2.0-client\r\n", arrives = "ARRIVES" },
            { client = { hex = "00 ff 80" } },
            LAST
        ]
        [[test.connection]]
        steps = [ { client = "GET / HTTP/1.0\r\n\r\n", ends = true } ]
        [[test.connection]]
        steps = [ { client = "neither\n" }, { upstream = "nor\n" } ]
        [[test.connection]]
        from = "127.0.0.9"
        expect.upstream = false
        "#;
    run("tcp-policy", &tests.replace("ARRIVES", arrives).replace("LAST", last))
}

#[test]
fn connections_through_tcp_policy() {
    let report = policy(r"SSH-2.0-client\r\n", "");
    assert_eq!((report.passed, report.failed), (1, 0), "{}", problems(&report));
    assert_eq!(report.tests[0].connections, 4);
    assert!(report.coverage.verdicts["reset"] >= 2, "{:?}", report.coverage.verdicts);

    let told = problems(&policy(r"SSH-2.0-other!\r\n", ""));
    let expected = r#"connection 1: step 3: the upstream: expected "SSH-2.0-other!\r\n", got "SSH-2.0-client\r\n""#;
    assert!(told.contains(expected), "{told}");
    let told = problems(&policy(r"SSH-2.0-client\r\n", r#"{ upstream = "bye", ends = true }"#));
    let expected = r#"connection 1: the client: expected nothing more, got "bye""#;
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_component_of_wasi_http_is_tested_by_requests() {
    let report = run(
        "proxy-probe",
        r#"
        [[test]]
        name = "x"
        config = { GREETING = "hello" }
        expect.verdicts = { answer = 1, continue = 1 }
        [[test.exchange]]
        request = { path = "/answer" }
        expect.status = 200
        expect.upstream = false
        [[test.exchange]]
        request = { method = "POST", path = "/there?a=b", body = "some text" }
        response = { status = 201, body = "made" }
        expect.status = 201
        expect.body = "made"
        expect.upstream = { method = "POST", path = "/there?a=b", body = "some text" }

        [[test]]
        name = "a list is no environment variable"
        config = { list = [1] }
        expect.refused = "config.list"
        "#,
    );
    assert_eq!((report.passed, report.failed), (2, 0), "{}", problems(&report));
}

#[test]
fn mistakes_about_connections_are_told() {
    for (tests, said) in [
        ("in = \"a.pcap\"\n[[test.connection]]", "`in` and `connection` exclude each other"),
        ("[[test.connection]]\nfrom = \"10.0.0.1\"", "allowed: 127.0.0.0/8"),
        ("[[test.connection]]\nsteps = [ { ends = true } ]", "one side has to send"),
        (
            "[[test.connection]]\nsteps = [ { client = \"a\", upstream = \"b\" } ]",
            "one side has to send",
        ),
        (
            "[[test.connection]]\nsteps = [ { client = \"a\", ends = true }, { client = \"b\" } ]",
            "no step can follow",
        ),
        ("[[test.connection]]\nsteps = [ { client = { hex = \"123\" } } ]", "hex"),
        (
            "[[test.connection]]\nexpect.upstream = false\nsteps = [ { upstream = \"a\" } ]",
            "it never hears of",
        ),
        ("expect.verdicts = { drop = 1 }\n[[test.connection]]", "allowed: continue, answer, reset"),
    ] {
        let text = format!("[[test]]\nname = \"x\"\n{tests}\n");
        let told = Document::<Suite>::parse("weir-test.toml", &text).unwrap_err().to_string();
        assert!(told.contains(said), "{tests}\n{told}");
    }
    let mut tester = Tester::new(&built_file("rewrite"), None, None, None).unwrap();
    let suite = "[[test]]\nname = \"x\"\n[[test.connection]]\n";
    let suite = Document::<Suite>::parse("weir-test.toml", suite).unwrap();
    let told = tester.suite(&suite, Path::new("")).unwrap_err().to_string();
    assert!(told.contains("the function is for messages"), "{told}");
}

/// All that an SDK for messages has, by what a function made with it does.
fn messages_in(language: &str, more: &str) {
    let common = include_str!("../../../guest-sdk/tests/messages.toml");
    let report = run_file(&message_probe(language), &format!("{common}{more}"));
    assert!(report.passed >= 4 && report.failed == 0, "{language}: {}", problems(&report));
    assert_eq!(report.coverage.verdicts["wait"], 8);
}

#[test]
fn messages_in_go() {
    messages_in("go", "");
}

#[test]
fn messages_in_assemblyscript() {
    const COUNTERS: &str = r#"
        [[test]]
        name = "a counter's name that is not allowed"
        config = { counter = "no-name" }
        expect.refused = "a counter has a name that is not allowed"
        [[test]]
        name = "what escapes in the configuration mean"
        config = { say = 'C:\new "one"\\' }
        expect.refused = 'C:\new "one"\\'
    "#;
    messages_in("assemblyscript", COUNTERS);
}

/// What a function waits for in Zig, and C's answers, logs and times beneath.
#[test]
fn messages_in_zig() {
    const SOURCE: &str = r#"
        const std = @import("std");
        const weir = @import("weir");
        const message = @import("message");
        comptime { message.function(@This()); }
        var tokens: [8]u32 = undefined;
        var count: usize = 0;
        var begun: u64 = 0;
        pub fn configure(_: *const weir.Setup, config: weir.Json, refusal: *weir.Refusal) weir.Refused!void {
            var members = config.members();
            const say = members.next() orelse return;
            var room: [64]u8 = undefined;
            const said = say.value.copy(&room) orelse return refusal.because("{s}\u{e9}{s}", .{ &@as([508]u8, @splat('r')), "\xff" });
            return refusal.because("it says {s}", .{said});
        }
        pub fn wants() u32 { return message.request_head; }
        fn ask(token: ?u32) message.Outcome {
            tokens[count] = token orelse return .reset;
            count += 1;
            return .wait;
        }
        pub fn requestHead(exchange: message.Exchange, _: *message.Head) message.Outcome {
            weir.log(.info, "{s}\u{e9}{s}", .{ &@as([1023]u8, @splat('a')), "\xff" });
            if (exchange.answer(200, &.{.of("x-a", "\xff")}, "") != .reset) return .proceed;
            begun = message.eventNow();
            if (begun == 0 or begun > weir.now()) return .reset;
            if (!exchange.storeSet("key", "kept", 0)) return .reset;
            return ask(exchange.sleep(1000));
        }
        pub fn @"resume"(exchange: message.Exchange, token: u32, status: u32, _: ?*message.Head, body: []const u8) message.Outcome {
            if (status != 0 or token != tokens[count - 1] or message.eventNow() < begun + 1000) return .reset;
            if (count == 1) return ask(exchange.storeAdd("sum", 3, 60000));
            if (count == 2) {
                if (std.mem.readInt(i64, body[0..8], .little) != 3) return .reset;
                return ask(exchange.storeGet("key"));
            }
            return exchange.answer(200, &.{.of("x-a", "\u{e4}")}, body);
        }
    "#;
    let directory = tempfile::tempdir().unwrap();
    let changes = &[("main.zig", "", SOURCE)];
    let wasm = changed_template("zig", "message", "asks", directory.path(), changes);
    let report = run_file(
        &wasm,
        r#"
        [[test]]
        name = "x"
        [[test.exchange]]
        request = { path = "/" }
        expect.body = "kept"
        expect.fields = { x-a = "ä" }
        [[test]]
        name = "y"
        config = { wrong = true }
        expect.refused = "rré?"
        [[test]]
        name = "z"
        config = { say = 'C:\new "one"\\' }
        expect.refused = 'it says C:\new "one"\\'
        "#,
    );
    assert_eq!((report.passed, report.failed), (3, 0), "{}", problems(&report));
}

/// A function for connections lets go of what comes from the upstream line by line, and takes no
/// connection from 127.0.0.9.
fn connections_in(language: &str, changes: &[(&str, &str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    let wasm = changed_template(language, "message", "lines", directory.path(), changes);
    let report = run_file(
        &wasm,
        r#"
        [[test]]
        name = "x"
        expect.counters = { ended = 3 }
        expect.verdicts = { hold = 2, reset = 1 }
        [[test.connection]]
        steps = [
            { client = "hello" },
            { upstream = "a li", arrives = false },
            { upstream = "ne", arrives = false },
            { upstream = "\nan", arrives = "a line\nan" },
        ]
        [[test.connection]]
        steps = [ { upstream = "a\n" }, { client = "b\n" } ]
        [[test.connection]]
        from = "127.0.0.9"
        expect.upstream = false
        "#,
    );
    assert_eq!((report.passed, report.failed), (1, 0), "{language}: {}", problems(&report));
}

#[test]
fn connections_in_go() {
    const SOURCE: &str = r#"package main

import (
	"bytes"

	"weir"
)

type lines struct{ ended *weir.Counter }

func (l *lines) Configure(*weir.Setup, *struct{}) error {
	l.ended = weir.NewCounter("ended")
	return nil
}

func (l *lines) Opened(_ weir.Exchange, head *weir.Head) weir.Outcome {
	if head.Client().Addr().String() == "127.0.0.9" {
		return weir.Reset
	}
	return weir.Continue
}

func (l *lines) Data(_ weir.Exchange, fromUpstream bool, piece *weir.Piece) weir.Outcome {
	if fromUpstream && !piece.Last() && !bytes.ContainsRune(piece.Data(), '\n') {
		return weir.HoldPiece
	}
	return weir.Continue
}

func (l *lines) Ended(weir.Exchange, weir.End) { l.ended.Add(1) }

func init() { weir.ExportConnection[struct{}](&lines{}) }

func main() {}
"#;
    connections_in("go", &[("build", "tag=message", "tag=connection"), ("main.go", "", SOURCE)]);
}

#[test]
fn connections_in_assemblyscript() {
    const SOURCE: &str = r#"
import { Counter, End, Exchange, Head, Outcome, Piece, onData, onEnded, onOpened } from "message";
export * from "exports/connection";

const ended = new Counter("ended");

onOpened((exchange: Exchange, head: Head): Outcome => (load<u8>(head.client, 15) == 9 ? Outcome.Reset : Outcome.Continue));

onData((exchange: Exchange, fromUpstream: bool, piece: Piece): Outcome =>
  fromUpstream && !piece.last && piece.toString().indexOf("\n") < 0 ? Outcome.HoldPiece : Outcome.Continue
);

onEnded((exchange: Exchange, end: End): void => ended.add(1));
"#;
    let changes = [("build", "world=message", "world=connection"), ("main.ts", "", SOURCE)];
    connections_in("assemblyscript", &changes);
}
