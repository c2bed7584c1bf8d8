//! Functions that come with Weir, tested as their authors would.

use std::path::Path;

use weir_author::suite::Suite;
use weir_author::tests::{Report, Tester};
use weir_spec::Document;
use weir_tests::built::built_file;

fn run(function: &str, tests: &str) -> Report {
    let mut tester = Tester::new(&built_file(function), None, None).unwrap();
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
