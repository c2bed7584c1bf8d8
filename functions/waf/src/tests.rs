mod attacks;
mod honest;

use std::io::Write as _;

use proptest::prelude::*;
use regex::bytes::RegexBuilder;
use serde_json::{Value, json};
use weir_sdk::testing::{Message, MessageHarness};

use super::*;

fn waf(config: Value) -> MessageHarness<Waf> {
    MessageHarness::new(config).unwrap()
}

/// Percent-encodes everything that is not a letter or digit; `%` stays, so that payloads can bring
/// encodings of their own.
fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// As a browser sends it: `%` is encoded, too.
fn encode_all(text: &str) -> String {
    encode(&text.replace('%', "\0")).replace("%00", "%25")
}

fn browser(path: impl AsRef<[u8]>) -> Message {
    Message::get(path)
        .field("user-agent", honest::AGENTS[0])
        .field(
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        )
        .field("accept-language", "en-US,en;q=0.5")
        .field("accept-encoding", "gzip, deflate, br")
        .field("sec-ch-ua", "\"Not_A Brand\";v=\"8\", \"Chromium\";v=\"120\"")
        .field("sec-fetch-mode", "navigate")
}

fn status(harness: &mut MessageHarness<Waf>, request: &Message) -> u16 {
    harness.exchange(request, |_| Message::response(200)).status
}

fn post(kind: &str, body: impl AsRef<[u8]>) -> Message {
    Message { method: "POST".into(), ..browser("/form") }.field("content-type", kind).body(body)
}

#[test]
fn attacks_are_found_in_arguments_at_level_1() {
    let mut harness = waf(json!({}));
    let mut missed = Vec::new();
    let all = [attacks::SQL, attacks::SCRIPT, attacks::FILES, attacks::COMMANDS, attacks::PLAIN];
    for payload in all.concat() {
        if status(&mut harness, &browser(format!("/x?q={}", encode(payload)))) != 403 {
            missed.push(payload);
        }
    }
    // As they are.
    for payload in attacks::PLAIN {
        if status(&mut harness, &browser(format!("/x?q={payload}"))) != 403 {
            missed.push(payload);
        }
    }
    // What is a comment for SQL is text for others: it hides nothing that is found between other
    // marks.
    let (mut found, mut hidden) = (0, Vec::new());
    for payload in all.concat() {
        let mut between = |before: &str, behind: &str| {
            let text = encode(&format!("{before}{payload}{behind}"));
            status(&mut harness, &browser(format!("/x?q={text}"))) == 403
        };
        if between("/ *", "* /") {
            found += 1;
            if !between("/*", "*/") {
                hidden.push(payload);
            }
        }
    }
    assert!(found > 50 && hidden.is_empty(), "{found}: {hidden:#?}");
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn attacks_are_found_in_bodies_and_cookies() {
    let mut harness = waf(json!({}));
    let mut missed = Vec::new();
    for payload in [attacks::SQL, attacks::SCRIPT, attacks::FILES, attacks::COMMANDS].concat() {
        let form = post("application/x-www-form-urlencoded", format!("a=1&b={}", encode(payload)));
        let body = json!({"a": [{"b": payload}]}).to_string();
        let object = post("application/json; charset=utf-8", body);
        let parts = format!(
            "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{payload}\r\n--xx--\r\n"
        );
        let multipart = post("multipart/form-data; boundary=xx", parts);
        for request in [form, object, multipart] {
            if status(&mut harness, &request) != 403 {
                missed.push(String::from_utf8_lossy(&request.body).into_owned());
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    for payload in attacks::SQL.iter().chain(attacks::SCRIPT) {
        if !payload.contains(';') && !payload.contains(['\n', '\0']) {
            let cookie = browser("/").field("cookie", format!("a=b; id={}", encode(payload)));
            assert_eq!(status(&mut harness, &cookie), 403, "{payload}");
        }
    }
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn attacks_are_found_in_paths_and_fields() {
    let mut harness = waf(json!({}));
    for path in [
        "/../../etc/passwd",
        "/a/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%5c..%5cwin.ini",
        "/.git/config",
        "/.env",
        "/.env.local",
        "/wp-config.php",
        "/a;/..;/manager",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "/x%00.jpg",
        "/cgi-bin/;cat%20/etc/passwd",
        "/vendor/phpunit/src/Util/PHP/eval-stdin.php",
        "/item/1%27%20or%201=1--",
        "/$%7Bjndi:ldap://x/a%7D",
        "/index.php?a[$ne]=1",
        "/?__proto__[x]=1",
        "/?__proto__=1",
    ] {
        assert_eq!(status(&mut harness, &browser(path)), 403, "{path}");
    }
    for (name, value) in [
        ("user-agent", "() { :; }; /bin/bash -c id"),
        ("user-agent", "sqlmap/1.7"),
        ("user-agent", "Nikto"),
        ("user-agent", "${jndi:ldap://x/a}"),
        ("referer", "https://a/?q=<script>alert(1)</script>"),
        ("x-api-version", "${jndi:dns://x}"),
        ("x-forwarded-for", "1' or 1=1--' union select 1"),
        ("accept-language", "${jndi:ldap://x/a}"),
        ("authorization", "Basic ${jndi:ldap://x/a}"),
        ("range", "bytes=0-1,2-3,4-5,6-7,8-9,10-11,12-13"),
    ] {
        let mut request = browser("/");
        request.fields.retain(|(n, _)| n != name);
        assert_eq!(status(&mut harness, &request.field(name, value)), 403, "{name}: {value}");
    }
}

#[test]
fn honest_requests_have_no_score_at_level_1() {
    let mut harness = waf(json!({"threshold": 1}));
    let mut wrong = Vec::new();
    let mut check = |harness: &mut MessageHarness<Waf>, what: &str, request: &Message| {
        if status(harness, request) != 200 {
            wrong.push(format!("{what}: {}", harness.log().pop().unwrap().1));
        }
    };
    for value in honest::VALUES {
        let encoded = encode_all(value);
        check(&mut harness, value, &browser(format!("/search?q={encoded}&page=2")));
        check(
            &mut harness,
            value,
            &browser("/").field("referer", format!("https://example.com/search?q={encoded}")),
        );
        check(
            &mut harness,
            value,
            &post("application/x-www-form-urlencoded", format!("a={encoded}&b=1")),
        );
        check(
            &mut harness,
            value,
            &post("application/json", json!({"text": value, "n": 1}).to_string()),
        );
    }
    for path in honest::PATHS {
        check(&mut harness, path, &browser(path));
    }
    for cookie in honest::COOKIES {
        check(&mut harness, cookie, &browser("/").field("cookie", cookie));
    }
    for agent in honest::AGENTS {
        let mut request = browser("/");
        request.fields.retain(|(name, _)| name != "user-agent");
        check(&mut harness, agent, &request.field("user-agent", agent));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_text_that_a_rule_matches_has_one_of_its_literals() {
    let expressions: Vec<_> = builtin::RULES
        .iter()
        .map(|rule| (rule, RegexBuilder::new(rule.pattern).unicode(false).build().unwrap()))
        .collect();
    let mut matched = std::collections::BTreeSet::new();
    let mut missing = Vec::new();
    let all = [attacks::SQL, attacks::SCRIPT, attacks::FILES, attacks::COMMANDS, attacks::PLAIN];
    for payload in [all.concat(), honest::VALUES.to_vec()].concat() {
        let (mut canonical, mut scratch) = (Vec::new(), Vec::new());
        let comments = text::Comments::Replaced;
        text::canonical(payload.as_bytes(), true, comments, &mut canonical, &mut scratch);
        let text = String::from_utf8_lossy(&canonical);
        for (rule, expression) in &expressions {
            if expression.is_match(&canonical) {
                matched.insert(rule.id);
                let is_needed = |c: &u8| {
                    rule.needs.contains(c) || c.is_ascii_digit() && rule.needs.contains(&b'0')
                };
                let needed = rule.needs.is_empty() || canonical.iter().any(is_needed);
                if !needed || !rule.literals.iter().any(|literal| text.contains(literal)) {
                    missing.push(format!("{}: {text}", rule.id));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    let level_1 = builtin::RULES.iter().filter(|rule| rule.level == 1).count();
    assert!(
        matched.len() >= level_1 * 3 / 4,
        "only {} of {level_1} rules were tried",
        matched.len()
    );
}

#[test]
fn higher_levels_find_more() {
    let request = browser("/?file=../a&x=%60id+x%60");
    let mut passed = Vec::new();
    for level in 1..=4 {
        passed.push(status(&mut waf(json!({ "paranoia": level })), &request));
    }
    assert_eq!(passed, [200, 403, 403, 403]);
    let odd = browser("/?q=a%27b%22c%3Bd%28e%3Cf%7Cg");
    assert_eq!(status(&mut waf(json!({"threshold": 3, "paranoia": 3})), &odd), 200);
    assert_eq!(status(&mut waf(json!({"threshold": 3, "paranoia": 4})), &odd), 403);
}

#[test]
fn weak_signs_add_up() {
    let mut harness = waf(json!({"paranoia": 2, "threshold": 6}));
    let with_address = browser("/").authority("192.0.2.1");
    assert_eq!(status(&mut harness, &with_address), 200);
    let mut and_no_agent = with_address;
    and_no_agent.fields.retain(|(name, _)| name != "user-agent");
    assert_eq!(status(&mut harness, &and_no_agent), 200);
    let and_broken = Message { path: b"/?a=%zz".to_vec(), ..and_no_agent };
    assert_eq!(status(&mut harness, &and_broken), 403);
    assert_eq!((harness.counter("suspicious"), harness.counter("attacks")), (2, 1));
}

#[test]
fn detection_alone_logs_and_lets_pass() {
    let mut harness = waf(json!({"mode": "detect"}));
    assert_eq!(status(&mut harness, &browser("/?q=%3Cscript%3E")), 200);
    assert_eq!(harness.counter("attacks"), 1);
    let log = harness.log();
    assert!(log[0].1.contains("5001 script-tag in arg q: %3Cscript%3E"), "{log:?}");
}

#[test]
fn methods_and_arguments_are_limited() {
    let mut harness = waf(json!({"methods": ["GET"], "max-args": 3}));
    assert_eq!(status(&mut harness, &Message { method: "POST".into(), ..browser("/") }), 403);
    assert_eq!(status(&mut harness, &browser("/?a&b&c")), 200);
    assert_eq!(status(&mut harness, &browser("/?a&b&c&d")), 403);
    let deep = "[".repeat(70) + &"]".repeat(70);
    let mut harness = waf(json!({}));
    assert_eq!(status(&mut harness, &post("application/json", deep)), 403);
}

#[test]
fn exclusions_switch_rules_off_where_they_say() {
    let mut harness = waf(json!({
        "disable": [5001],
        "exclude": [
            {"rules": [5004], "target": "arg:html", "path-prefix": "/cms/"},
            {"target": "cookie:legacy"},
            {"path-prefix": "/old/"},
        ],
    }));
    for (path, expected) in [
        ("/?q=%3Cscript%3E", 200),
        ("/cms/edit?html=%3Csvg%3E", 200),
        ("/cms/edit?text=%3Csvg%3E", 403),
        ("/edit?html=%3Csvg%3E", 403),
        ("/cms/edit?html=%27%20or%201=1--", 403),
        ("/old/edit?html=%3Csvg%3E&back=../..", 200),
        ("/old/../edit?html=%3Csvg%3E", 403),
        ("/old/.%2e/edit?html=%3Csvg%3E", 403),
        ("/old/..%252fedit?html=%3Csvg%3E", 403),
        ("/old/..;/edit?html=%3Csvg%3E", 403),
    ] {
        assert_eq!(status(&mut harness, &browser(path)), expected, "{path}");
    }
    let cookie = |name: &str| browser("/").field("cookie", format!("{name}=' or 1=1--"));
    assert_eq!(status(&mut harness, &cookie("legacy")), 200);
    assert_eq!(status(&mut harness, &cookie("other")), 403);
}

#[test]
fn rules_of_the_operators_own() {
    let mut harness = waf(json!({"rules": [
        {"id": 10001, "name": "probe", "targets": ["path"], "contains": ["/admin"]},
        {"id": 10002, "targets": ["arg:id"], "pattern": "^[^0-9]", "score": 3},
        {"id": 10003, "targets": ["field:x-secret"], "pattern": "^let-me-in$", "action": "allow"},
        {"id": 10004, "targets": ["args"], "contains": ["BAD"], "transform": []},
        {"id": 10005, "targets": ["args"], "pattern": "^/secret", "transform": ["url-decode", "normalise-path"]},
    ]}));
    for (path, expected) in [
        ("/Admin/x", 403),
        ("/x?id=1", 200),
        ("/x?id=x", 200),
        ("/x?other=bad", 200),
        ("/x?other=xBADx", 403),
        ("/x?p=%2Fa%2F..%2Fsecret", 403),
    ] {
        assert_eq!(status(&mut harness, &browser(path)), expected, "{path}");
    }
    assert_eq!(harness.counter("suspicious"), 1);
    let trusted = browser("/?q=%3Cscript%3E").field("x-secret", "let-me-in");
    assert_eq!(status(&mut harness, &trusted), 200);
}

#[test]
fn a_body_is_held_until_it_was_looked_at() {
    use weir_sdk::testing::PieceStep;
    let mut harness = waf(json!({}));
    let exchange = harness.open();
    harness.request_head(exchange, &post("application/x-www-form-urlencoded", "x"));
    assert_eq!(harness.request_body(exchange, b"a=<scr", false), PieceStep::Held);
    let step = harness.request_body(exchange, b"ipt>", true);
    assert!(matches!(step, PieceStep::Answer(_)), "{step:?}");
    harness.end(exchange, How::Answered, None);
    let exchange = harness.open();
    harness.request_head(exchange, &post("application/x-www-form-urlencoded", "x"));
    assert_eq!(harness.request_body(exchange, b"a=1", false), PieceStep::Held);
    assert_eq!(harness.request_body(exchange, b"&b=2", true), PieceStep::Pass(b"a=1&b=2".to_vec()));
    harness.end(exchange, How::Delivered, None);
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn long_bodies_are_looked_at_as_far_as_the_limit() {
    let long = |attack_at: usize| {
        let mut body = vec![b'a'; 3000];
        body[attack_at..attack_at + 8].copy_from_slice(b"<script>");
        post("text/plain", body)
    };
    let mut harness = waf(json!({"body-limit": 1000}));
    harness.set_piece_bytes(300);
    assert_eq!(status(&mut harness, &long(500)), 403);
    assert_eq!(status(&mut harness, &long(1500)), 200);
    let mut harness = waf(json!({"body-limit": 1000, "on-long-body": "reject"}));
    assert_eq!(status(&mut harness, &long(1500)), 413);
    let mut unknown = long(1500);
    unknown.body.truncate(999);
    assert_eq!(status(&mut harness, &unknown), 200);
    let mut harness = waf(json!({"max-held": 100}));
    assert_eq!(status(&mut harness, &long(50)), 403);
    assert_eq!(status(&mut harness, &long(500)), 200, "no more is held than is allowed");
    let json = r#"  {"q":"\u003cscript\u003ealert(1)"}"#;
    assert_eq!(status(&mut waf(json!({})), &post("text/plain", json)), 403);
    assert_eq!(status(&mut harness, &long(50)), 403, "and all of it was let go");
}

#[test]
fn files_and_other_types_are_not_looked_into() {
    let mut harness = waf(json!({}));
    let parts = |name: &str| {
        format!(
            "--xx\r\nContent-Disposition: form-data; name=f; filename=\"{name}\"\r\n\r\n<script>\r\n--xx--\r\n"
        )
    };
    let form = |name| post("multipart/form-data; boundary=xx", parts(name));
    assert_eq!(status(&mut harness, &form("a.html")), 200);
    assert_eq!(status(&mut harness, &form("../../x.php")), 403);
    assert_eq!(status(&mut harness, &post("image/png", "<script>")), 200);
    assert_eq!(harness.counter("bodies_not_looked_at"), 1);
}

/// What a client says of a body must not take it out of sight: upstreams read it all the same.
#[test]
fn a_body_is_looked_at_whatever_is_said_of_it() {
    let mut harness = waf(json!({"disable": [1016, 1017]}));
    let mut strict = waf(json!({}));
    let form = |text: &str| format!("a=1&q={}", encode(text));
    let attack = || form("' or 1=1--");
    let parts = |head: &str| format!("--b\r\n{head}\r\n\r\n<script>\r\n--b--\r\n");
    let field = "Content-Disposition: form-data; name=\"q\"";
    let with = |name, value| post("application/x-www-form-urlencoded", attack()).field(name, value);
    for (request, sound) in [
        (with("content-encoding", "x"), true),
        (with("content-encoding", "gzip"), true),
        (with("content-encoding", "Identity"), true),
        (with("connection", "upgrade").field("upgrade", "x").upgrade(), true),
        (post("application/x-www-form-urlencoded, x", attack()), false),
        (post("application/x-www-form-urlencoded x", attack()), false),
        (post("multipart/form-data; xboundary=A; boundary=b", parts(field)), false),
        (post("multipart/form-data; boundary=A", parts(field)), false),
        (post("application/x-www-form-urlencoded; charset=ibm037", attack()), false),
        (
            post("multipart/form-data; boundary=b", parts(&format!("{field}\r\nX: y; filename=z"))),
            true,
        ),
    ] {
        assert_eq!(status(&mut harness, &request), 403, "{:?}", request.fields);
        if !sound {
            let harmless = Message { body: b"a=1".to_vec(), ..request };
            assert_eq!(status(&mut strict, &harmless), 403, "{:?}", harmless.fields);
        }
    }
    for harmless in [
        post("application/x-www-form-urlencoded", form("x")).field("content-encoding", "gzip"),
        post("multipart/form-data; boundary=b", parts(field).replace("<script>", "x")),
    ] {
        assert_eq!(status(&mut strict, &harmless), 200);
    }
    assert_eq!(strict.counter("bodies_not_looked_at"), 1);
}

/// As `gzip` compresses it.
fn gzip(text: &str) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    gzip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

/// The numbers of what they violate would be a matter of chance.
#[test]
fn compressed_bodies_are_not_counted_as_what_they_would_be() {
    let mut harness = waf(json!({"max-args": 2}));
    let parts = "multipart/form-data; boundary=------------------------d74496d66958873e";
    let numbers: String = (1..1000u64).map(|n| (n * n * 7919 % 99991).to_string()).collect();
    let compressed = gzip(&numbers);
    assert!(compressed.iter().filter(|c| **c == b'&').count() > 2);
    let brackets = [&b"\xff"[..], &[b'['; 200]].concat();
    for kind in [parts, "application/x-www-form-urlencoded", "application/json", "text/plain"] {
        for body in [&compressed, &gzip("a=1"), &brackets] {
            let request = post(kind, body).field("content-encoding", "gzip");
            assert_eq!(status(&mut harness, &request), 200, "{kind}");
        }
    }
    // That it is said to be compressed makes nothing of it another thing.
    let field = "Content-Disposition: form-data; name=\"q\"";
    for (kind, body) in [
        ("application/x-www-form-urlencoded", "a=1&b=2&c=3".to_owned()),
        ("application/json", "[".repeat(200)),
    ] {
        let request = post(kind, body).field("content-encoding", "gzip");
        assert_eq!(status(&mut harness, &request), 403, "{kind}");
    }
    let ambiguous = [&b"\xff--b\n"[..], field.as_bytes(), b"\n\nx\n--b--\n"].concat();
    let request = post("multipart/form-data; boundary=b", ambiguous);
    assert_eq!(status(&mut harness, &request.field("content-encoding", "gzip")), 403);
}

#[test]
fn mistakes_are_named() {
    let refused = |config: Value| MessageHarness::<Waf>::new(config).unwrap_err();
    for (config, part) in [
        (json!({"paranoia": 5}), "paranoia: 5"),
        (json!({"disable": [1]}), "no built-in rule has the number 1"),
        (json!({"rules": [{"id": 5, "contains": ["x"]}]}), "rules[0]: id: 5"),
        (json!({"rules": [{"id": 10000}]}), "needs a pattern"),
        (json!({"rules": [{"id": 10000, "pattern": "("}]}), "rule 10000: pattern"),
        (json!({"rules": [{"id": 10000, "contains": ["x"], "targets": ["moon"]}]}), "\"moon\""),
        (json!({"exclude": [{"target": "arg:"}]}), "exclude[0]: target"),
        (json!({"exclude": [{}]}), "exclude[0]: it would switch all rules off"),
        (json!({"exclude": [{"rules": []}]}), "exclude[0].rules: the list is empty"),
        (
            json!({"exclude": [{"rules": [99999]}]}),
            "exclude[0].rules: no rule has the number 99999",
        ),
        (json!({"exclude": [{"rules": [1001]}]}), "use `disable`"),
        (json!({"exclude": [{"path-prefix": "cms"}]}), "exclude[0]: path-prefix: \"cms\""),
        (json!({"methods": ["get"]}), "methods: \"get\""),
        (json!({"methods": []}), "methods: the list is empty"),
        (json!({"mode": "off"}), "off"),
        (json!({"rules": [{"id": 10000, "contains": ["x"], "transform": ["rot13"]}]}), "rot13"),
    ] {
        let error = refused(config);
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_request_panics(path in "/[!-~]{0,60}", value in "[ -~]{0,60}", body in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut harness = waf(json!({"paranoia": 4}));
        for kind in ["application/json", "application/x-www-form-urlencoded", "text/x", "multipart/form-data; boundary=b"] {
            let request = Message { path: path.clone().into_bytes(), ..post(kind, &body) }.field("x", value.trim());
            status(&mut harness, &request);
        }
        // Bytes that are no UTF-8, before what is looked for.
        let odd = post("x", &body);
        let kind = [&b"multipart/form-data;"[..], &[0xff; 8][..path.len() % 9], b" boundary=x"].concat();
        let fields = odd.fields.into_iter().map(|(name, value)| match &name[..] {
            "content-type" => (name, kind.clone()),
            _ => (name, value),
        });
        status(&mut harness, &Message { fields: fields.collect(), ..odd });
    }

    #[test]
    fn words_pass(words in prop::collection::vec("[a-z]{1,9}", 1..8)) {
        let text = words.join(" ");
        let mut harness = waf(json!({"threshold": 1}));
        prop_assert_eq!(status(&mut harness, &browser(format!("/?q={}", encode_all(&text)))), 200);
    }
}
