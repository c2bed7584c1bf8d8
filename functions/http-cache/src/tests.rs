use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use serde_json::{Value, json};
use weir_sdk::testing::{Message, MessageHarness, Step};

use super::*;

fn cache(config: Value) -> MessageHarness<Cache> {
    MessageHarness::new(config).unwrap()
}

/// What came back, and whether the upstream was asked.
fn send(
    harness: &mut MessageHarness<Cache>,
    request: &Message,
    upstream: impl FnOnce(&Message) -> Message,
) -> (Message, bool) {
    let mut asked = false;
    let response = harness.exchange(request, |request| {
        asked = true;
        upstream(request)
    });
    (response, asked)
}

fn page(control: &str) -> Message {
    Message::response(200)
        .field("cache-control", control)
        .field("content-type", "text/plain")
        .body("page")
}

/// Whether the second of two equal requests is answered from the store.
fn is_stored(response: &Message) -> bool {
    let mut harness = cache(json!({}));
    let get = Message::get("/x");
    send(&mut harness, &get, |_| response.clone());
    let (second, asked) = send(&mut harness, &get, |_| response.clone());
    assert_eq!(second.status, response.status);
    !asked
}

/// A date so many seconds before the harness's beginning.
fn ago(seconds: u64) -> String {
    let text = match seconds {
        0 => "Tue, 14 Nov 2023 22:13:21 GMT",
        10 => "Tue, 14 Nov 2023 22:13:11 GMT",
        1000 => "Tue, 14 Nov 2023 21:56:41 GMT",
        _ => panic!("another date"),
    };
    assert_eq!(date::read(text.as_bytes(), 0), Some(1_700_000_001 - seconds));
    text.into()
}

#[test]
fn a_fresh_response_is_used_and_its_age_told() {
    let mut harness = cache(json!({}));
    let get = Message::get("/x");
    let (first, _) = send(&mut harness, &get, |_| page("max-age=60").field("age", "5"));
    assert_eq!(first.get_field("cache-status"), Some("weir; fwd=uri-miss; stored"));
    harness.advance(10 * SECOND);
    let (second, asked) = send(&mut harness, &get, |_| panic!("it is stored"));
    assert!(!asked && second.body == b"page");
    assert_eq!(second.get_field("age"), Some("15"));
    assert_eq!(second.get_field("cache-status"), Some("weir; hit; ttl=45"));
    assert_eq!(second.get_field("content-type"), Some("text/plain"));
    harness.advance(45 * SECOND);
    assert!(send(&mut harness, &get, |_| page("max-age=60")).1, "at 60 it is stale");
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
    assert_eq!((harness.counter("hits"), harness.counter("misses")), (1, 2));
}

#[test]
fn lifetimes_come_from_the_fields_in_their_order() {
    let base = || Message::response(200).body("x");
    for (stored, response) in [
        (true, page("s-maxage=60, max-age=0")),
        (false, page("s-maxage=0, max-age=60")),
        (true, page("max-age=60").field("expires", "0")),
        (false, page("max-age=0").field("expires", "Thu, 01 Jan 2099 00:00:00 GMT")),
        (true, base().field("expires", "Thu, 01 Jan 2099 00:00:00 GMT")),
        (false, base().field("expires", "0")),
        (false, base().field("expires", ago(10)).field("date", ago(0))),
        (true, base().field("last-modified", ago(1000))),
        (false, base()),
        (false, page("max-age=60").field("age", "60")),
        (false, page("max-age=60").field("date", ago(1000))),
        (false, page("max-age=5, max-age=60").field("age", "10")),
        (false, page("max-age=fast")),
    ] {
        assert_eq!(is_stored(&response), stored, "{:?}", response.fields);
    }
}

#[test]
fn what_must_not_be_stored_is_not() {
    let fresh = "public, max-age=60";
    for (stored, response) in [
        (true, page(fresh)),
        (false, page("no-store, max-age=60")),
        (false, page("private, max-age=60")),
        (false, page("private=\"x\", max-age=60")),
        (false, page("no-cache, max-age=60")),
        (false, page(fresh).field("vary", "*")),
        (false, page(fresh).field("set-cookie", "a=b")),
        (false, Message { status: 206, ..page(fresh).field("content-range", "bytes 0-3/9") }),
        (true, Message { status: 404, ..page(fresh) }),
        (true, Message { status: 500, ..page(fresh) }),
        (
            false,
            Message {
                status: 500,
                ..Message::response(500).field("last-modified", ago(1000)).body("x")
            },
        ),
        (true, Message { body: Vec::new(), status: 204, ..page(fresh) }),
        (false, page(fresh).body(vec![0; 300 << 10])),
        (true, page(fresh).body(vec![7; 200 << 10])),
    ] {
        assert_eq!(is_stored(&response), stored, "{} {:?}", response.status, response.fields);
    }
}

#[test]
fn authorized_requests_are_stored_only_when_told() {
    for (control, stored) in [
        ("max-age=60", false),
        ("max-age=60, public", true),
        ("s-maxage=60", true),
        ("max-age=60, must-revalidate", true),
    ] {
        let mut harness = cache(json!({}));
        let get = Message::get("/x").field("authorization", "Bearer x");
        send(&mut harness, &get, |_| page(control));
        assert_eq!(!send(&mut harness, &get, |_| page(control)).1, stored, "{control}");
    }
    let mut harness = cache(json!({}));
    let cookie = Message::get("/x").field("cookie", "id=1");
    let old = Message::response(200).field("last-modified", ago(1000)).body("x");
    send(&mut harness, &cookie, |_| old.clone());
    assert!(
        send(&mut harness, &cookie, |_| old.clone()).1,
        "nothing of a client's own is kept by guess"
    );
}

#[test]
fn requests_say_what_they_want() {
    let mut harness = cache(json!({}));
    let get = |control: &str| Message::get("/x").field("cache-control", control);
    send(&mut harness, &Message::get("/x"), |_| page("max-age=60"));
    harness.advance(20 * SECOND);
    let mut asked = |request: &Message| send(&mut harness, request, |_| Message::response(503)).1;
    assert!(!asked(&get("max-age=20")));
    assert!(asked(&get("max-age=19")));
    assert!(!asked(&get("min-fresh=40")));
    assert!(asked(&get("min-fresh=41")));
    assert!(asked(&get("no-cache")));
    assert!(asked(&get("no-store")));
    assert!(asked(&Message::get("/x").field("pragma", "no-cache")));
    assert!(asked(&Message::get("/x").field("range", "bytes=0-1")));
    harness.advance(45 * SECOND);
    let mut asked = |request: &Message| send(&mut harness, request, |_| Message::response(503)).1;
    assert!(asked(&get("max-stale=4")));
    assert!(!asked(&get("max-stale=5")));
    assert!(!asked(&get("max-stale")));
    let (answer, asked) = send(&mut harness, &get("only-if-cached"), |_| page(""));
    assert_eq!((answer.status, asked), (504, false));
    let mut strict = cache(json!({"client-control": false}));
    send(&mut strict, &Message::get("/x"), |_| page("max-age=60"));
    assert!(!send(&mut strict, &get("no-cache"), |_| page("")).1);
}

#[test]
fn variants_are_kept_apart() {
    let mut harness = cache(json!({}));
    let get = |language: &str| Message::get("/x").field("accept-language", language);
    let speak = |request: &Message| {
        page("max-age=60")
            .field("vary", "Accept-Language, accept-encoding")
            .body(request.get_field("accept-language").unwrap())
    };
    for language in ["de", "en"] {
        let (response, asked) = send(&mut harness, &get(language), speak);
        assert!(asked);
        let why = if language == "de" { "uri-miss" } else { "vary-miss" };
        assert_eq!(
            response.get_field("cache-status"),
            Some(format!("weir; fwd={why}; stored").as_str())
        );
    }
    for language in ["de", "en", "de"] {
        let (response, asked) = send(&mut harness, &get(language), speak);
        assert_eq!((response.body, asked), (language.as_bytes().to_vec(), false));
    }
    assert!(send(&mut harness, &get("de").field("accept-encoding", "br"), speak).1);
    assert!(
        send(&mut harness, &get("de").field("accept-language", "en"), speak).1,
        "both values count"
    );
}

#[test]
fn hosts_schemes_and_queries_are_kept_apart() {
    let mut harness = cache(json!({}));
    let all = [
        Message::get("/x"),
        Message::get("/x?a"),
        Message::get("/x").authority("example.org"),
        Message::get("/x").tls("example.com"),
    ];
    for request in &all {
        assert!(send(&mut harness, request, |_| page("max-age=60")).1);
    }
    for request in &all {
        assert!(!send(&mut harness, request, |_| page("max-age=60")).1);
    }
    assert!(!send(&mut harness, &Message::get("/x").authority("EXAMPLE.com"), |_| page("")).1);
}

#[test]
fn a_stale_response_is_validated_and_merged() {
    let mut harness = cache(json!({}));
    let get = Message::get("/x");
    let first = page("max-age=10")
        .field("etag", "\"1\"")
        .field("last-modified", ago(1000))
        .field("x-kept", "k");
    send(&mut harness, &get, |_| first.clone());
    harness.advance(20 * SECOND);
    let (merged, asked) = send(&mut harness, &get, |request| {
        assert_eq!(request.get_field("if-none-match"), Some("\"1\""));
        assert_eq!(request.get_field("if-modified-since"), Some(ago(1000).as_str()));
        Message::response(304)
            .field("etag", "\"1\"")
            .field("cache-control", "max-age=30")
            .field("x-new", "n")
            .field("content-type", "odd/odd")
    });
    assert!(asked && merged.status == 200 && merged.body == b"page");
    assert_eq!((merged.get_field("x-kept"), merged.get_field("x-new")), (Some("k"), Some("n")));
    assert_eq!(merged.get_field("content-type"), Some("text/plain"));
    assert_eq!(merged.get_field("cache-status"), Some("weir; fwd=stale; fwd-status=304"));
    harness.advance(29 * SECOND);
    assert!(!send(&mut harness, &get, |_| panic!("it is fresh again")).1);
    harness.advance(SECOND);
    let (new, _) =
        send(&mut harness, &get, |_| page("max-age=10").field("etag", "\"2\"").body("new"));
    assert_eq!(new.body, b"new");
    assert_eq!(send(&mut harness, &get, |_| page("")).0.body, b"new");
    assert_eq!(harness.gauge("responses"), Some(1.0));
}

#[test]
fn no_cache_is_stored_and_always_validated() {
    let mut harness = cache(json!({}));
    let get = Message::get("/x");
    let first = page("no-cache").field("etag", "\"1\"");
    send(&mut harness, &get, |_| first.clone());
    for _ in 0..2 {
        let (response, asked) = send(&mut harness, &get, |request| {
            assert_eq!(request.get_field("if-none-match"), Some("\"1\""));
            Message::response(304)
        });
        assert!(asked && response.body == b"page");
    }
}

#[test]
fn clients_conditions_are_answered() {
    let mut harness = cache(json!({}));
    let first = page("max-age=60").field("etag", "W/\"1\"").field("last-modified", ago(1000));
    send(&mut harness, &Message::get("/x"), |_| first.clone());
    for (name, value, status) in [
        ("if-none-match", "\"1\"", 304),
        ("if-none-match", "\"0\", W/\"1\"", 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"2\"", 200),
        ("if-modified-since", &ago(1000), 304),
        ("if-modified-since", &ago(0), 304),
        ("if-modified-since", "Thu, 01 Jan 1998 00:00:00 GMT", 200),
        ("if-modified-since", "yesterday", 200),
    ] {
        let request = Message::get("/x").field(name, value);
        let (response, asked) = send(&mut harness, &request, |_| panic!("it is fresh"));
        assert_eq!((response.status, asked), (status, false), "{name}: {value}");
        assert_eq!(response.body.is_empty(), status == 304);
        assert_eq!(response.get_field("etag"), Some("W/\"1\""));
    }
    harness.advance(100 * SECOND);
    let own = Message::get("/x").field("if-none-match", "\"other\"");
    let (response, _) = send(&mut harness, &own, |request| {
        assert_eq!(
            request.get_field("if-none-match"),
            Some("W/\"1\""),
            "the store's, not the client's"
        );
        Message::response(304)
    });
    assert_eq!(response.status, 200, "the client has something else");
}

#[test]
fn head_is_answered_from_what_get_brought() {
    let mut harness = cache(json!({}));
    send(&mut harness, &Message::get("/x"), |_| page("max-age=60").field("etag", "\"1\""));
    let head = Message::request("HEAD", "/x");
    let (response, asked) = send(&mut harness, &head, |_| panic!("it is stored"));
    assert_eq!((response.status, response.body.len(), asked), (200, 0, false));
    harness.advance(100 * SECOND);
    send(&mut harness, &head, |_| Message::response(200).field("cache-control", "max-age=60"));
    let (response, asked) = send(&mut harness, &Message::get("/x"), |_| page("max-age=60"));
    assert!(asked && response.body == b"page", "a response to HEAD is not stored");
}

#[test]
fn unsafe_methods_invalidate() {
    let mut harness = cache(json!({}));
    let fill = |harness: &mut MessageHarness<Cache>| {
        for path in ["/x", "/y", "/z"] {
            send(harness, &Message::get(path), |_| page("max-age=600"));
        }
    };
    let stored = |harness: &mut MessageHarness<Cache>| {
        ["/x", "/y", "/z"]
            .map(|path| !send(harness, &Message::get(path), |_| Message::response(503)).1)
    };
    fill(&mut harness);
    send(&mut harness, &Message::request("POST", "/x"), |_| Message::response(500));
    assert_eq!(stored(&mut harness), [true, true, true], "errors change nothing");
    send(&mut harness, &Message::request("POST", "/x").body("b"), |_| {
        Message::response(201)
            .field("location", "/y")
            .field("content-location", "http://example.com/z")
    });
    assert_eq!(stored(&mut harness), [false, false, false]);
    fill(&mut harness);
    send(&mut harness, &Message::request("DELETE", "/q"), |_| {
        Message::response(204)
            .field("location", "http://example.com.evil/y")
            .field("content-location", "//example.com/z")
    });
    assert_eq!(stored(&mut harness), [true, true, true], "another origin's word does not count");
    send(&mut harness, &Message::request("OPTIONS", "/x"), |_| Message::response(204));
    assert_eq!(stored(&mut harness), [true, true, true]);
    // Upstreams ignore protocols that they do not know.
    let odd = Message::request("POST", "/x").field("upgrade", "x").upgrade();
    send(&mut harness, &odd, |_| Message::response(204));
    assert_eq!(stored(&mut harness), [false, true, true]);
}

#[test]
fn a_stale_response_is_used_while_it_is_asked_beside() {
    let mut harness = cache(json!({}));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (log, answers) = (
        seen.clone(),
        Rc::new(RefCell::new(vec![
            Ok(Message::response(304)
                .field("cache-control", "max-age=10, stale-while-revalidate=30")),
            Err(2),
            Ok(page("max-age=10, stale-while-revalidate=30").body("new")),
        ])),
    );
    harness.on_call(move |_, request| {
        log.borrow_mut().push(request.clone());
        answers.borrow_mut().remove(0)
    });
    let get = Message::get("/x").field("cache-control", "max-age=100").field("accept", "x");
    send(&mut harness, &get, |_| {
        page("max-age=10, stale-while-revalidate=30").field("etag", "\"1\"")
    });
    harness.advance(15 * SECOND);
    let (stale, asked) = send(&mut harness, &get, |_| panic!("it may be used"));
    assert!(stale.body == b"page" && !asked);
    assert_eq!(stale.fields.iter().filter(|(n, _)| n == "cache-status").count(), 1);
    assert!(stale.get_field("cache-status").unwrap().contains("ttl=-5"));
    {
        let seen = seen.borrow();
        assert_eq!(
            (seen[0].get_field("if-none-match"), seen[0].get_field("accept")),
            (Some("\"1\""), Some("x"))
        );
        assert_eq!(seen[0].get_field("cache-control"), None);
    }
    let (fresh, _) = send(&mut harness, &get, |_| panic!("it was asked"));
    assert_eq!(fresh.get_field("age"), Some("0"));
    for _ in 0..2 {
        harness.advance(15 * SECOND);
        assert!(!send(&mut harness, &get, |_| panic!("it may be used")).1);
    }
    assert_eq!(send(&mut harness, &get, |_| panic!("it was asked")).0.body, b"new");
    harness.advance(41 * SECOND);
    assert!(send(&mut harness, &get, |_| page("no-store")).1, "too stale");
    assert_eq!(seen.borrow().len(), 3);
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn what_is_somebodys_own_is_not_stored_when_it_is_asked_beside() {
    const SHORT: &str = "max-age=1, stale-while-revalidate=60";
    let get = || Message::get("/me");
    let alice = || get().field("authorization", "Bearer A");
    for (first, own, shared) in [
        (SHORT, "max-age=60", false),
        ("public, max-age=1, stale-while-revalidate=60", "max-age=60", false),
        ("public, max-age=1, stale-while-revalidate=60", "public, max-age=60", true),
    ] {
        let mut harness = cache(json!({}));
        harness.on_call(move |_, request| {
            assert_eq!(request.get_field("authorization"), Some("Bearer A"));
            Ok(page(own).body("alice's"))
        });
        send(&mut harness, &get(), |_| page(first));
        harness.advance(2 * SECOND);
        send(&mut harness, &alice(), |_| page(own).body("alice's"));
        harness.on_call(|_, _| Err(1));
        let (seen, _) = send(&mut harness, &get(), |_| page("max-age=60"));
        assert_eq!(seen.body == b"alice's", shared, "{first}; {own}");
    }
    // Nor what is kept by guess, of requests with cookies.
    let mut harness = cache(json!({}));
    harness
        .on_call(|_, _| Ok(Message::response(200).field("last-modified", ago(1000)).body("own")));
    send(&mut harness, &get(), |_| page(SHORT));
    harness.advance(2 * SECOND);
    send(&mut harness, &get().field("cookie", "id=1"), |_| panic!("it may be used"));
    assert!(send(&mut harness, &get(), |_| page("max-age=60")).0.body == b"page");
}

#[test]
fn what_is_asked_beside_is_stored_for_those_who_ask_the_same() {
    let mut harness = cache(json!({}));
    harness.on_call(|_, _| Ok(page("max-age=60").field("vary", "accept-language").body("de")));
    let get = |language: &str| Message::get("/x").field("accept-language", language);
    send(&mut harness, &get("de"), |_| page("max-age=1, stale-while-revalidate=60"));
    harness.advance(2 * SECOND);
    send(&mut harness, &get("de"), |_| panic!("it may be used"));
    harness.on_call(|_, _| Err(1));
    assert_eq!(send(&mut harness, &get("de"), |_| panic!("it is stored")).0.body, b"de");
    assert_eq!(send(&mut harness, &Message::get("/x"), |_| page("")).0.body, b"page");
    assert_eq!(send(&mut harness, &get("en"), |_| page("")).0.body, b"page");
}

#[test]
fn a_client_without_a_condition_never_gets_a_304() {
    let validated = || page("max-age=1").field("etag", "\"1\"");
    let not_modified = || Message::response(304).field("etag", "\"1\"");
    let get = Message::get("/x");
    // One that says it is for one client only; one with the tag of another coding.
    for (answer, stays) in [
        (not_modified().field("cache-control", "private"), false),
        (not_modified().field("cache-control", "no-store"), false),
        (Message::response(304).field("etag", "\"1-gzip\""), true),
    ] {
        let mut harness = cache(json!({}));
        send(&mut harness, &get, |_| validated());
        harness.advance(5 * SECOND);
        let (got, _) = send(&mut harness, &get, |_| answer.clone());
        assert_eq!((got.status, &got.body[..]), (200, &b"page"[..]), "{:?}", answer.fields);
        let own = Message::get("/x").field("if-none-match", "\"0\"");
        let (again, _) = send(&mut harness, &own, |request| {
            let asked = request.get_field("if-none-match");
            assert_eq!(asked, Some(if stays { "\"1\"" } else { "\"0\"" }));
            validated().body("new")
        });
        assert_eq!(again.body, b"new");
    }
    // One that comes when what it is about has been removed, replaced, or pushed out.
    for gone in 0..3 {
        let mut harness = cache(json!({"size": 20_000, "max-body": 10_000}));
        send(&mut harness, &get, |_| validated());
        harness.advance(5 * SECOND);
        let exchange = harness.open();
        harness.request_head(exchange, &get);
        match gone {
            0 => {
                send(&mut harness, &Message::request("POST", "/x"), |_| Message::response(204));
            }
            1 => {
                send(&mut harness, &get, |_| validated().body("other"));
            }
            _ => {
                for n in 0..5 {
                    send(&mut harness, &Message::get(format!("/{n}")), |_| {
                        page("max-age=60").body(vec![0; 9000])
                    });
                }
            }
        }
        let step = harness.response_head(exchange, &not_modified());
        let Step::Answer(answer) = step else { panic!("{gone}: {step:?}") };
        assert_eq!((answer.status, &answer.body[..]), (200, &b"page"[..]), "{gone}");
        harness.end(exchange, How::Answered, None);
        assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
    }
}

#[test]
fn what_is_asked_beside_may_come_when_its_client_has_gone() {
    let mut harness = cache(json!({}));
    let control = "max-age=10, stale-while-revalidate=30";
    harness.on_call(move |_, _| Ok(page(control).body("new")));
    let get = Message::get("/x");
    send(&mut harness, &get, |_| page(control).body("old"));
    harness.advance(15 * SECOND);
    harness.set_late(true);
    for _ in 0..3 {
        assert_eq!(send(&mut harness, &get, |_| panic!("it may be used")).0.body, b"old");
    }
    harness.bring_late();
    assert_eq!(send(&mut harness, &get, |_| panic!("it is new")).0.body, b"new");
    assert_eq!(harness.counter("stored"), 2, "one asked for all");
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn errors_are_hidden_as_long_as_allowed() {
    for (control, hidden) in [
        ("max-age=10, stale-if-error=20", true),
        ("max-age=10", false),
        ("max-age=10, stale-if-error=20, must-revalidate", false),
        ("max-age=10, stale-if-error=4", false),
    ] {
        let mut harness = cache(json!({}));
        let get = Message::get("/x");
        send(&mut harness, &get, |_| page(control).field("etag", "\"1\""));
        harness.advance(15 * SECOND);
        let (response, asked) = send(&mut harness, &get, |_| Message::response(503));
        assert!(asked);
        assert_eq!(response.status == 200, hidden, "{control}");
        assert!(
            send(&mut harness, &get, |_| Message::response(404)).0.status == 404,
            "404 is no failure"
        );
    }
}

#[test]
fn bodies_that_break_off_are_not_stored() {
    let mut harness = cache(json!({}));
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/x"));
    harness.response_head(exchange, &page("max-age=60"));
    harness.response_body(exchange, b"pa", false);
    harness.end(exchange, How::UpstreamFailed, Some(0));
    let exchange = harness.open();
    harness.request_head(exchange, &Message::get("/x"));
    harness.response_head(exchange, &page("max-age=60"));
    harness.response_body(exchange, b"pa", true);
    harness.end(exchange, How::Delivered, Some(0));
    assert!(send(&mut harness, &Message::get("/x"), |_| page("")).1, "shorter than announced");
    assert_eq!(harness.counter("stored"), 0);
}

#[test]
fn the_store_stays_within_its_size() {
    let mut harness = cache(json!({"size": 20_000, "max-body": 4_000}));
    for n in 0..50 {
        send(&mut harness, &Message::get(format!("/{n}")), |_| {
            page("max-age=60").body(vec![0; 3000])
        });
    }
    assert!(harness.gauge("bytes").unwrap() <= 20_000.0);
    assert!(!send(&mut harness, &Message::get("/49"), |_| page("")).1);
    assert!(send(&mut harness, &Message::get("/0"), |_| page("")).1);
}

#[test]
fn without_rooms_for_an_answer_the_upstream_is_asked() {
    use weir_sdk::testing::Options;
    let options = Options { room_bytes: 16_384, rooms: 8, ..Options::default() };
    let mut harness = MessageHarness::<Cache>::with(options, json!({})).unwrap();
    let large = page("max-age=60").body(vec![7; 200_000]);
    for _ in 0..2 {
        let (response, asked) = send(&mut harness, &Message::get("/x"), |_| large.clone());
        assert!(asked && response.body == large.body);
    }
    assert_eq!(harness.free_rooms(), 8);
}

#[test]
fn mistakes_are_named() {
    let refused = |config: Value| MessageHarness::<Cache>::new(config).unwrap_err();
    assert!(refused(json!({"name": "a b"})).contains("a b"));
    assert!(refused(json!({"size": 1, "max-body": 2})).contains("more than size"));
    assert!(refused(json!({"heuristic-percent": 101})).contains("101"));
    assert!(refused(json!({"sise": 1})).contains("sise"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked in whatever order, nobody gets a response of another target or variant, or one older than it may be.
    #[test]
    fn what_comes_from_the_store_could_have_come_from_the_upstream(
        steps in prop::collection::vec((0u8..3, 0u8..3, 0u64..8, 1u64..12), 1..80),
    ) {
        let mut harness = cache(json!({"size": 8_000, "max-body": 2_000}));
        let mut time = 0;
        for (path, language, wait, lifetime) in steps {
            harness.advance(wait * SECOND);
            time += wait;
            let request = Message::get(format!("/{path}")).field("accept-language", language.to_string());
            let (response, _) = send(&mut harness, &request, |_| {
                page(&format!("max-age={lifetime}")).field("vary", "accept-language")
                    .body(format!("{path} {language} {time} {lifetime}"))
            });
            let text = String::from_utf8(response.body).unwrap();
            let parts: Vec<u64> = text.split(' ').map(|part| part.parse().unwrap()).collect();
            prop_assert_eq!((parts[0], parts[1]), (path.into(), language.into()));
            prop_assert!(time == parts[2] || time - parts[2] < parts[3]);
        }
    }

    #[test]
    fn no_fields_panic(control in "[ -~]{0,40}", other in "[ -~]{0,30}", name in prop::sample::select(vec!["age", "expires", "date", "vary", "etag", "if-none-match", "if-modified-since", "last-modified"])) {
        let mut harness = cache(json!({}));
        let (control, other) = (control.trim(), other.trim());
        for _ in 0..2 {
            let request = Message::get("/x").field("cache-control", control).field(name, other);
            send(&mut harness, &request, |_| Message::response(200).field("cache-control", control).field(name, other).field("etag", "\"x\"").body("b"));
            harness.advance(SECOND);
        }
    }
}
