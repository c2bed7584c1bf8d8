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
    // The gateway says the body's length and leaves it out.
    assert_eq!((response.status, &response.body[..], asked), (200, &b"page"[..], false));
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

const RENEWED: &str = "max-age=10, stale-while-revalidate=30";

/// A cache with a page that has been stale for 5 seconds.
fn with_stale_page() -> MessageHarness<Cache> {
    let mut harness = cache(json!({}));
    send(&mut harness, &Message::get("/x"), |_| page(RENEWED).field("etag", "\"1\""));
    harness.advance(15 * SECOND);
    harness
}

/// Lets a request go on that asks whether the page still holds.
fn ask(harness: &mut MessageHarness<Cache>) -> u32 {
    let exchange = harness.open();
    let step = harness.request_head(exchange, &Message::get("/x"));
    let Step::Continue(request) = step else { panic!("{step:?}") };
    assert_eq!(request.get_field("if-none-match"), Some("\"1\""));
    exchange
}

/// What others get without waiting.
fn others(harness: &mut MessageHarness<Cache>) -> Message {
    let mut get = |request: &Message| send(harness, request, |_| panic!("another asks")).0;
    let told = get(&Message::get("/x"));
    let must_not_ask = Message::get("/x").field("cache-control", "only-if-cached");
    assert_eq!(get(&must_not_ask).body, told.body);
    told
}

#[test]
fn a_stale_response_is_used_while_one_asks() {
    let mut harness = with_stale_page();
    let must_not_ask = Message::get("/x").field("cache-control", "only-if-cached");
    assert_eq!(send(&mut harness, &must_not_ask, |_| panic!("it must not")).0.body, b"page");
    let one = ask(&mut harness);
    let stale = others(&mut harness);
    assert!(stale.body == b"page" && stale.get_field("cache-status").unwrap().contains("ttl=-5"));
    let newer = Message::get("/x").field("cache-control", "max-age=10");
    assert!(send(&mut harness, &newer, |_| Message::response(304)).1, "who wants more has to ask");
    harness.response_head(one, &Message::response(304).field("cache-control", RENEWED));
    harness.end(one, How::Answered, Some(0));
    assert_eq!(others(&mut harness).get_field("age"), Some("0"));
    // Of a new one, the body has to come, too.
    harness.advance(15 * SECOND);
    let one = ask(&mut harness);
    harness.response_head(one, &page(RENEWED).body("new"));
    harness.response_body(one, b"n", false);
    assert_eq!(others(&mut harness).body, b"page");
    harness.response_body(one, b"ew", true);
    assert_eq!(others(&mut harness).body, b"new");
    harness.end(one, How::Delivered, Some(0));
    harness.advance(41 * SECOND);
    assert!(send(&mut harness, &Message::get("/x"), |_| page("no-store")).1, "too stale");
    assert_eq!((harness.counter("stale"), harness.counter("stored")), (5, 2));
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn who_comes_next_asks_when_one_got_no_answer() {
    let mut harness = with_stale_page();
    for step in 0..3 {
        let one = ask(&mut harness);
        others(&mut harness);
        match step {
            0 => harness.end(one, How::ClientGone, Some(0)),
            1 => {
                harness.response_head(one, &page(RENEWED));
                harness.response_body(one, b"pa", false);
                harness.end(one, How::UpstreamFailed, Some(0));
            }
            _ => {
                let step = harness.response_head(one, &Message::response(503));
                let Step::Answer(hidden) = step else { panic!("{step:?}") };
                let told = hidden.get_field("cache-status").unwrap();
                assert_eq!(told, "weir; fwd=stale; detail=stale-while-revalidate");
                assert_eq!(hidden.body, b"page");
                harness.end(one, How::Answered, Some(0));
            }
        }
    }
    let late = ask(&mut harness);
    harness.advance(20 * SECOND);
    ask(&mut harness);
    harness.end(late, How::UpstreamFailed, Some(0));
    others(&mut harness);
}

#[test]
fn what_is_not_true_any_more_is_not_told_to_others() {
    let dated = Message::response(200).field("last-modified", ago(1000)).body("new");
    for (answer, stays) in [
        (page("no-store"), false),
        (page("private, max-age=60"), false),
        (page(RENEWED).body(vec![0; 300 << 10]), false),
        (Message { status: 404, ..page("no-store") }, false),
        (Message { status: 429, ..page("no-store") }, true),
        // A function made it.
        (Message { flags: 8, ..page("no-store") }, true),
    ] {
        let mut harness = with_stale_page();
        send(&mut harness, &Message::get("/x"), |_| answer.clone());
        let one = harness.open();
        harness.request_head(one, &Message::get("/x"));
        let (other, asked) = send(&mut harness, &Message::get("/x"), |_| dated.clone());
        assert_eq!((other.body == b"page", asked), (stays, !stays), "{:?}", answer.fields);
    }
}

#[test]
fn what_is_somebodys_own_is_not_stored_when_it_is_asked_for_in_place_of_what_is_stale() {
    const SHORT: &str = "max-age=1, stale-while-revalidate=60";
    let get = || Message::get("/me");
    let alice = || get().field("authorization", "Bearer A");
    for (first, own, shared) in [
        (SHORT, "max-age=60", false),
        ("public, max-age=1, stale-while-revalidate=60", "max-age=60", false),
        ("public, max-age=1, stale-while-revalidate=60", "public, max-age=60", true),
    ] {
        let mut harness = cache(json!({}));
        send(&mut harness, &get(), |_| page(first));
        harness.advance(2 * SECOND);
        send(&mut harness, &alice(), |_| page(own).body("alice's"));
        let one = harness.open();
        harness.request_head(one, &get());
        let (seen, _) = send(&mut harness, &get(), |_| panic!("another asks, or it is stored"));
        assert_eq!(seen.body == b"alice's", shared, "{first}; {own}");
    }
    // Nor what is kept by guess, of requests with cookies.
    let mut harness = cache(json!({}));
    let own = Message::response(200).field("last-modified", ago(1000)).body("own");
    send(&mut harness, &get(), |_| page(SHORT));
    harness.advance(2 * SECOND);
    send(&mut harness, &get().field("cookie", "id=1"), |_| own.clone());
    assert!(send(&mut harness, &get(), |_| page("max-age=60")).0.body == b"page");
}

/// What was asked for before something was changed may be what was there before.
#[test]
fn what_was_asked_for_before_an_unsafe_method_succeeded_is_not_stored() {
    let mut harness = cache(json!({}));
    let change = |harness: &mut MessageHarness<Cache>, path: &str, status| {
        let put = Message::request("PUT", path).body("b");
        send(harness, &put, |_| Message::response(status).field("location", "/x"));
    };
    for (path, status, stored) in [("/x", 204, false), ("/y", 201, false), ("/x", 500, true)] {
        let one = harness.open();
        harness.request_head(one, &Message::get("/x"));
        harness.response_head(one, &page("max-age=600"));
        harness.response_body(one, b"pa", false);
        change(&mut harness, path, status);
        harness.response_body(one, b"ge", true);
        harness.end(one, How::Delivered, Some(0));
        let (_, asked) = send(&mut harness, &Message::get("/x"), |_| page("max-age=600"));
        assert_eq!(asked, !stored, "{path} {status}");
        assert!(!send(&mut harness, &Message::get("/x"), |_| panic!("it is stored")).1);
        change(&mut harness, "/x", 204);
    }
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

    /// Whatever is asked in whatever order, nobody gets a response of another target or variant, or
    /// one older than it may be.
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
