use http::uri::Authority;
use proptest::prelude::*;
use serde_json::{Value, json};
use weir_sdk::config::{HOP_FIELDS, is_authority};
use weir_sdk::testing::{Message, MessageHarness};

use super::*;

fn rewrite(rules: Value) -> MessageHarness<Rewrite> {
    MessageHarness::new(json!({ "rules": rules })).unwrap()
}

/// What the upstream gets.
fn sent(harness: &mut MessageHarness<Rewrite>, request: &Message) -> Message {
    let mut got = Message::get("/nothing came");
    harness.exchange(request, |request| {
        got = request.clone();
        Message::response(200)
    });
    got
}

fn path(harness: &mut MessageHarness<Rewrite>, path: &str) -> String {
    String::from_utf8(sent(harness, &Message::get(path)).path).unwrap()
}

#[test]
fn the_part_of_the_path_that_matched_is_replaced_and_the_query_kept() {
    let mut harness = rewrite(json!([
        {"path-prefix": "/old/", "rewrite": "/new/"},
        {"path": "/exact", "rewrite": "/other?fixed=1"},
        {"path-regex": "^/item/([0-9]+)$", "rewrite": "/items/$1/of/${host}"},
        {"path-regex": "\\.php$", "rewrite": ""},
    ]));
    for (from, to) in [
        ("/old/a/b?c=d", "/new/a/b?c=d"),
        ("/older/a", "/older/a"),
        ("/exact?a=b", "/other?fixed=1"),
        ("/exact/", "/exact/"),
        ("/item/42?x", "/items/42/of/example.com?x"),
        ("/item/4x", "/item/4x"),
        ("/run.php?x=.php", "/run?x=.php"),
        (".php", "/"),
    ] {
        assert_eq!(path(&mut harness, from), to, "{from}");
    }
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

/// What the gateway would not take of the function is not handed to it: that would be a fault.
#[test]
fn a_request_that_would_have_no_target_is_answered_with_400() {
    let mut harness = rewrite(json!([
        {"path-regex": "^/tenant/([^/]*)/", "rewrite": "/", "authority": "$1.internal"},
        {"path-regex": "^/(..)", "rewrite": "/shard/$1/"},
        {"path-prefix": "/", "authority": "$1"},
    ]));
    let good = sent(&mut harness, &Message::get("/tenant/a1/x"));
    assert_eq!((&good.authority[..], &good.path[..]), ("x", &b"/x"[..]));
    for bad in ["/tenant/%41/", "/tenant/a\"b/", "/tenant/a@b/", "/tenant/[/", "/aé", "/ab"] {
        let answer = harness.exchange(&Message::get(bad), |_| panic!("{bad} is passed on"));
        assert_eq!(answer.status, 400, "{bad}");
    }
    assert_eq!((harness.counter("refused"), harness.free_rooms()), (6, 64));
}

#[test]
fn rules_are_applied_one_after_the_other_until_one_is_the_last() {
    let mut harness = rewrite(json!([
        {"path-prefix": "/a", "rewrite": "/b"},
        {"path-prefix": "/b", "rewrite": "/c", "last": true},
        {"path-prefix": "/c", "rewrite": "/d"},
    ]));
    assert_eq!(path(&mut harness, "/a"), "/c");
    assert_eq!(path(&mut harness, "/c"), "/d");
}

#[test]
fn conditions_all_have_to_hold() {
    let mut harness = rewrite(json!([
        {"method": ["GET", "HEAD"], "host": ["example.com", "*.example.org"],
         "fields": {"x-a": "1", "x-b": "*", "x-c": "!", "x-d": "~^[0-9]+$"}, "path-prefix": "/", "rewrite": "/yes/"},
    ]));
    let good =
        Message::get("/").field("x-a", "0").field("x-a", "1").field("x-b", "").field("x-d", "77");
    let is = |harness: &mut _, request: Message| sent(harness, &request).path == b"/yes/";
    assert!(is(&mut harness, good.clone()));
    assert!(is(&mut harness, good.clone().authority("EXAMPLE.com:8080")));
    assert!(is(&mut harness, good.clone().authority("a.example.org")));
    for bad in [
        good.clone().authority("example.org"),
        good.clone().authority("aexample.org"),
        Message { method: "POST".into(), ..good.clone() },
        good.clone().field("x-c", ""),
        Message { fields: good.fields[1..3].to_vec(), ..good.clone() },
    ] {
        assert!(!is(&mut harness, bad.clone()), "{bad:?}");
    }
}

#[test]
fn redirects_answer_at_once() {
    let mut harness = rewrite(json!([
        {"path-prefix": "/blog/", "redirect": "https://blog.example.org/$1${query}", "status": 308},
        {"fields": {"x-forwarded-proto": "http"}, "redirect": "https://${host}${path}${query}"},
    ]));
    let none = |_: &Message| panic!("the upstream is not asked");
    let answer = harness.exchange(&Message::get("/blog/2026?x=1"), none);
    assert_eq!(
        (answer.status, answer.get_field("location")),
        (308, Some("https://blog.example.org/2026?x=1"))
    );
    let plain = Message::get("/p?q").field("x-forwarded-proto", "http");
    let answer = harness.exchange(&plain, none);
    assert_eq!(
        (answer.status, answer.get_field("location")),
        (302, Some("https://example.com/p?q"))
    );
    let answer = harness.exchange(&plain.authority("[::1]:8080"), none);
    assert_eq!(answer.get_field("location"), Some("https://[::1]/p?q"));
    assert_eq!(harness.counter("redirected"), 3);
}

#[test]
fn fields_of_requests_and_responses_are_removed_set_and_added() {
    let mut harness = rewrite(json!([{
        "authority": "backend.internal",
        "request": {"remove": ["cookie"], "set": {"x-real-ip": "${client}", "x-host": "${authority}"}, "add": {"via": "1.1 weir"}},
        "response": {"remove": ["server"], "set": {"strict-transport-security": "max-age=63072000"}, "add": {"vary": "cookie"}},
    }]));
    let request = Message::get("/")
        .field("cookie", "a")
        .field("cookie", "b")
        .field("via", "1.0 x")
        .from("2001:db8::7");
    let mut got = Message::get("/");
    let response = harness.exchange(&request, |request| {
        got = request.clone();
        Message::response(200).field("server", "x").field("vary", "accept")
    });
    assert_eq!(got.get_field("cookie"), None);
    assert_eq!(got.get_field("x-real-ip"), Some("2001:db8::7"));
    assert_eq!(got.get_field("x-host"), Some("example.com"), "as it came");
    assert_eq!(got.authority, "backend.internal");
    assert_eq!(got.all("via"), ["1.0 x", "1.1 weir"]);
    assert_eq!(response.get_field("server"), None);
    assert_eq!(response.get_field("strict-transport-security"), Some("max-age=63072000"));
    assert_eq!(response.all("vary"), ["accept", "cookie"]);
}

#[test]
fn a_head_that_has_no_room_is_answered_with_500_and_never_passed_on_half_edited() {
    let fields: serde_json::Map<_, _> =
        (0..40).map(|n| (format!("x-{n}"), json!("${path}"))).collect();
    let mut harness = rewrite(json!([{"request": {"set": fields}}]));
    let answer = harness.exchange(&Message::get("/"), |_| panic!("the upstream is not asked"));
    assert_eq!(answer.status, 500);
}

fn html(body: impl AsRef<[u8]>) -> Message {
    Message::response(200).field("content-type", "Text/HTML; charset=utf-8").body(body)
}

#[test]
fn texts_in_bodies_are_replaced_wherever_pieces_end() {
    let rules = json!([{"response": {"body": [
        {"find": "http://", "replace": "https://"}, {"find": "colour", "replace": "color"}, {"find": "xx", "replace": ""},
    ]}}]);
    let body = "http://a colour http:/ http:// xxx colou http:// colour";
    let expected = "https://a color http:/ https:// x colou https:// color";
    for piece in 1..body.len() {
        let mut harness = rewrite(rules.clone());
        harness.set_piece_bytes(piece);
        let response = harness.exchange(&Message::get("/"), |_| html(body));
        assert_eq!(String::from_utf8(response.body).unwrap(), expected, "pieces of {piece}");
        assert_eq!(harness.counter("replaced"), 6);
        assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
    }
}

#[test]
fn only_whole_texts_that_are_not_compressed_are_searched() {
    let mut harness = rewrite(json!([{"response": {"body": [{"find": "a", "replace": "b"}]}}]));
    let mut body = |response: Message| {
        let request = Message::get("/").field("accept-encoding", "gzip, br");
        let request = request.field("range", "bytes=0-20").field("if-range", "\"1\"");
        harness
            .exchange(&request, |request| {
                assert_eq!(request.get_field("accept-encoding"), Some("identity"));
                let range = (request.get_field("range"), request.get_field("if-range"));
                assert_eq!(range, (None, None));
                response
            })
            .body
    };
    assert_eq!(body(html("a")), b"b");
    assert_eq!(body(html("a").field("content-encoding", "gzip")), b"a");
    assert_eq!(body(Message { status: 206, ..html("a") }), b"a");
    assert_eq!(body(Message::response(200).field("content-type", "image/png").body("a")), b"a");
    let response = harness.exchange(&Message::get("/"), |_| {
        html("a")
            .field("etag", "\"1\"")
            .field("content-length", "1")
            .field("accept-ranges", "bytes")
    });
    assert_eq!(response.get_field("etag"), Some("W/\"1\""));
    assert_eq!(
        (response.get_field("content-length"), response.get_field("accept-ranges")),
        (None, None)
    );
}

#[test]
fn bodies_of_requests_are_searched_too() {
    let mut harness = rewrite(
        json!([{"request": {"body": [{"find": "a", "replace": "bb"}], "types": ["application/x-www-form-urlencoded"]}}]),
    );
    let request = Message::request("POST", "/")
        .field("content-type", "application/x-www-form-urlencoded")
        .field("content-digest", "sha-256=:AAAA:")
        .field("repr-digest", "sha-256=:AAAA:")
        .body("a=a");
    let got = sent(&mut harness, &request);
    assert_eq!(got.body, b"bb=bb");
    assert_eq!((got.get_field("content-digest"), got.get_field("repr-digest")), (None, None));
    let other = Message { body: b"a=a".to_vec(), ..request }.field("content-encoding", "br");
    assert!(sent(&mut harness, &other).get_field("content-digest").is_some(), "not searched");
}

#[test]
fn what_would_not_fit_is_left() {
    let mut harness =
        rewrite(json!([{"response": {"body": [{"find": "a", "replace": "b".repeat(4000)}]}}]));
    let response = harness.exchange(&Message::get("/"), |_| html("a".repeat(100)));
    assert_eq!(response.body.iter().filter(|c| **c == b'a').count(), 96);
    assert_eq!((harness.counter("replaced"), harness.counter("left")), (4, 96));
}

#[test]
fn mistakes_name_rule_and_key() {
    let refused = |rule: Value| {
        let error = MessageHarness::<Rewrite>::new(json!({ "rules": [{}, rule] })).unwrap_err();
        assert!(error.contains("rules[1]"), "{error}");
        error
    };
    for (rule, part) in [
        (json!({"path": "/a", "path-prefix": "/b"}), "only one of"),
        (json!({"method": []}), "method: the list is empty"),
        (json!({"method": "get"}), "method: \"get\""),
        (json!({"host": []}), "host: the list is empty"),
        (json!({"path": "a"}), "begins with `/`"),
        (json!({"path-regex": "("}), "path-regex"),
        (json!({"path-regex": "(a{1000}){1000}"}), "path-regex"),
        (json!({"rewrite": "/x"}), "rewrite needs"),
        (json!({"path": "/a", "rewrite": "/x y"}), "' '"),
        (json!({"path": "/a", "rewrite": "/a<b"}), "no path has"),
        (json!({"path": "/a", "rewrite": "/a`b"}), "no path has"),
        (json!({"path": "/a", "rewrite": "/x#y${query}"}), "no path has"),
        (json!({"authority": "http://backend:8080"}), "neither a host nor"),
        (json!({"path": "/a", "authority": "a/$1"}), "neither a host nor"),
        (json!({"authority": "a:b:c"}), "is no host"),
        (json!({"authority": ""}), "is no host"),
        (json!({"path-regex": "(a)", "rewrite": "$2"}), "$2"),
        (json!({"redirect": "/", "status": 200}), "200 is no redirect"),
        (json!({"status": 301}), "status needs redirect"),
        (json!({"request": {"set": {"X-A": "b"}}}), "lower case"),
        (json!({"request": {"set": {"host": "b"}}}), "use `authority`"),
        (json!({"request": {"remove": ["te"]}}), "`te` is the gateway's own"),
        (json!({"response": {"add": {"connection": "close"}}}), "would have no effect"),
        (json!({"response": {"set": {"content-length": "1"}}}), "follows from the body"),
        (json!({"fields": {"upgrade": "*"}}), "before a rule could see it"),
        (json!({"fields": {"host": "a"}}), "a condition of its own"),
        (json!({"request": {"set": {"x-a": "b\r\nx: y"}}}), "no field value"),
        (json!({"response": {"set": {"x-a": "${path}"}}}), "for requests only"),
        (json!({"response": {"body": [{"find": "", "replace": "x"}]}}), "1 to 256"),
        (json!({"respones": {}}), "respones"),
    ] {
        let error = refused(rule);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn fields_of_one_hop_are_neither_seen_nor_edited() {
    for field in HOP_FIELDS {
        for rule in [
            json!({"fields": {field: "*"}}),
            json!({"request": {"set": {field: "a"}}}),
            json!({"response": {"remove": [field]}}),
        ] {
            let error = MessageHarness::<Rewrite>::new(json!({"rules": [rule]})).unwrap_err();
            assert!(error.contains(&format!("`{field}` is ")), "{error}");
        }
    }
}

proptest! {
    #[test]
    fn pieces_do_not_change_what_a_body_becomes(
        body in "[ab]{0,60}",
        pairs in prop::collection::vec(("[ab]{1,4}", "[abX]{0,6}"), 1..4),
        cuts in prop::collection::vec(1usize..9, 1..30),
    ) {
        let body_rules: Vec<_> = pairs.iter().map(|(f, r)| json!({"find": f, "replace": r})).collect();
        let rules = json!([{"response": {"body": body_rules}}]);
        let mut whole = rewrite(rules.clone());
        let expected = whole.exchange(&Message::get("/"), |_| html(&body)).body;

        let mut harness = rewrite(rules);
        let exchange = harness.open();
        harness.request_head(exchange, &Message::get("/"));
        harness.response_head(exchange, &html(&body));
        let mut rest = body.as_bytes();
        let mut got = Vec::new();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            rest = after;
            match harness.response_body(exchange, piece, rest.is_empty()) {
                weir_sdk::testing::PieceStep::Pass(bytes) => got.extend(bytes),
                step => panic!("{step:?}"),
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(got, expected);
    }

    /// A request as the gateway lets it in is one when it goes on, too.
    #[test]
    fn every_request_goes_on_as_one(path in "/[!-~éü]{0,30}", host in "[!-~]{0,20}", value in "[ -~]{0,20}") {
        prop_assume!(is_target(path.as_bytes()));
        let host = if is_authority(host.as_bytes()) { &host } else { "a.a" };
        let mut harness = rewrite(json!([
            {"path-prefix": "/a", "rewrite": "/${query}$1"},
            {"host": "*a", "path-regex": "(.)(.*)", "rewrite": "$2$1"},
            {"path-regex": "(..)[^/]*$", "rewrite": "", "authority": "$1${host}:8${server-name}"},
            {"fields": {"x": "~a|b"}, "redirect": "$1${host}"},
        ]));
        let request = Message::get(&path).authority(host).field("x", value.trim());
        harness.exchange(&request, |request| {
            // The parser that the gateway takes it by.
            let authority = Authority::try_from(request.authority.as_str());
            assert!(is_target(&request.path) && authority.is_ok(), "{request:?}");
            Message::response(200)
        });
    }
}
