//! Which requests routes take, and what they have of their own.

use super::*;

/// As the top level says, and with these routes.
fn routed(upstreams: usize, routes: Value, top: Value) -> Result<MessageHarness<Balancer>, String> {
    let ports = (0..upstreams).map(|n| format!("u{n}")).collect();
    let mut config = top;
    config["routes"] = routes;
    MessageHarness::with(Options { rooms: 16, ports, ..Options::default() }, config)
}

/// The route that takes a request, when each has one upstream and the last is for the rest.
fn taken(harness: &mut MessageHarness<Balancer>, request: &Message) -> usize {
    let exchange = harness.open();
    let step = harness.request_head(exchange, request);
    assert!(matches!(step, Step::Continue(_)), "{step:?}");
    let upstream = harness.upstream(exchange).unwrap();
    harness.end(exchange, How::Delivered, Some(upstream));
    upstream
}

/// One upstream for each route, and the last for the rest.
fn one_each(conditions: &[Value]) -> Result<MessageHarness<Balancer>, String> {
    let routes = conditions.iter().enumerate().map(|(n, conditions)| {
        let mut route = conditions.clone();
        route["upstreams"] = json!([{"name": format!("u{n}")}]);
        route
    });
    let rest = json!({"upstreams": [{"name": format!("u{}", conditions.len())}]});
    routed(conditions.len() + 1, routes.collect(), rest)
}

fn get(authority: &str, path: &str) -> Message {
    Message::get(path).authority(authority)
}

#[test]
fn the_first_route_that_takes_a_request_decides() {
    let mut harness = one_each(&[
        json!({"host": "api.example.com", "path-prefix": "/v2"}),
        json!({"host": ["api.example.com", "*.api.example.com"]}),
        json!({"path": "/health", "method": ["GET", "HEAD"]}),
        json!({"path-prefix": "/", "fields": {"x-canary": "1", "cookie": "!"}}),
        json!({"path-prefix": "/files/"}),
    ])
    .unwrap();
    let canary = |value: &str| get("example.com", "/x").field("x-canary", value);
    for (request, route) in [
        (get("api.example.com", "/v2"), 0),
        (get("api.example.com", "/v2/users?a=/"), 0),
        (get("api.example.com", "/v2?a"), 0),
        (get("api.example.com", "/v20"), 1),
        (get("api.example.com", "/"), 1),
        (get("eu.api.example.com", "/v2"), 1),
        (get("a.eu.API.example.com:8080", "/v2"), 1),
        (get("example.com", "/health?now"), 2),
        (Message::request("HEAD", "/health"), 2),
        (Message::request("POST", "/health"), 5),
        (get("example.com", "/health/"), 5),
        (canary("1"), 3),
        (canary("0").field("x-canary", "1"), 3),
        (canary("1").field("cookie", "a=b"), 5),
        (canary("2"), 5),
        (get("example.com", "/files"), 5),
        (get("example.com", "/files/"), 4),
        (get("example.com", "/files/a/b"), 4),
        (get("", "/files/"), 4),
        (Message::request("OPTIONS", "*").field("x-canary", "1"), 5),
    ] {
        assert_eq!(taken(&mut harness, &request), route, "{request:?}");
    }
    assert_eq!(harness.remembered(), 0);
}

#[test]
fn hosts_are_compared_without_case_and_the_port_only_if_it_is_named() {
    let mut harness = one_each(&[
        json!({"host": "Example.com:8443"}),
        json!({"host": "example.com:443"}),
        json!({"host": "example.com"}),
        json!({"host": "*.example.com"}),
        json!({"host": ["[2001:db8::1]", "192.0.2.1:80"]}),
    ])
    .unwrap();
    for (authority, tls, route) in [
        ("example.COM:8443", false, 0),
        ("example.com:443", false, 1),
        ("example.com", true, 1),
        ("example.com", false, 2),
        ("EXAMPLE.com:80", true, 2),
        ("a.example.com:8443", false, 3),
        (".example.com", false, 5),
        ("badexample.com", false, 5),
        ("example.com.", false, 5),
        ("example.co", false, 5),
        ("", false, 5),
        ("[2001:DB8::1]", false, 4),
        ("[2001:db8::1]:8080", false, 4),
        ("192.0.2.1", false, 4),
        ("192.0.2.1", true, 5),
    ] {
        let request = get(authority, "/");
        let request = if tls { request.tls("example.com") } else { request };
        assert_eq!(taken(&mut harness, &request), route, "{authority} {tls}");
    }
}

#[test]
fn paths_are_compared_as_clients_send_them() {
    let mut harness =
        one_each(&[json!({"path-prefix": "/api"}), json!({"path": "/a%2Fb"})]).unwrap();
    for (path, route) in [
        ("/api", 0),
        ("/api/", 0),
        ("/api//x", 0),
        ("/api/../admin", 0),
        ("//api", 2),
        ("/./api", 2),
        ("/x/../api", 2),
        ("/%61pi", 2),
        ("/API", 2),
        ("/api;v=1", 2),
        ("/api%2Fx", 2),
        ("/a%2Fb", 1),
        ("/a%2fb", 2),
        ("/a/b", 2),
    ] {
        assert_eq!(taken(&mut harness, &Message::get(path)), route, "{path}");
    }
}

#[test]
fn what_no_route_takes_is_refused_where_that_is_wanted() {
    let routes = json!([{"path-prefix": "/api", "upstreams": [{"name": "u1"}]}]);
    let outlier = json!({"consecutive-5xx": 1, "max-percent": 100});
    let mut harness =
        routed(2, routes, json!({"otherwise": "refuse", "outlier": outlier})).unwrap();
    assert_eq!(taken(&mut harness, &Message::get("/api/1")), 1);
    assert_eq!(harness.counter("refused"), 0);
    let exchange = harness.open();
    let step = harness.request_head(exchange, &Message::get("/"));
    let Step::Answer(answer) = step else { panic!("{step:?}") };
    assert_eq!(answer.status, 404);
    harness.end(exchange, How::Delivered, None);
    assert_eq!((harness.counter("refused"), harness.counter("ejections")), (1, 0));
    assert_eq!(harness.remembered(), 0);
}

#[test]
fn a_route_has_what_it_does_not_say_from_the_top_level() {
    let two = json!([{"name": "u2", "weight": 3}, {"name": "u3"}]);
    let routes = json!([
        {"path-prefix": "/hash", "upstreams": two, "policy": "hash", "hash": "path"},
        {"path-prefix": "/turns", "upstreams": two, "policy": "round-robin"},
        {"path-prefix": "/same", "upstreams": two},
    ]);
    let top =
        json!({"policy": "hash", "hash": "client", "upstreams": [{"name": "u0"}, {"name": "u1"}]});
    let mut harness = routed(4, routes, top).unwrap();
    let mut spread = |path: fn(u8) -> String, clients: bool| {
        let mut counts = [0; 4];
        for n in 0..100u8 {
            let client = format!("192.0.2.{}", if clients { n } else { 1 });
            counts[taken(&mut harness, &Message::get(path(n)).from(&client))] += 1;
        }
        counts
    };
    let both = |counts: [usize; 4], a: usize, b: usize| {
        counts[a] >= 15 && counts[b] >= 15 && counts[a] + counts[b] == 100
    };
    let counts = spread(|n| format!("/hash/{n}"), false);
    assert!(both(counts, 2, 3) && counts[2] > counts[3], "{counts:?}");
    assert!(spread(|_| "/hash".into(), true).contains(&100));
    assert_eq!(spread(|n| format!("/turns/{n}"), false), [0, 0, 75, 25]);
    assert!(spread(|n| format!("/same/{n}"), false).contains(&100));
    assert!(both(spread(|_| "/same".into(), true), 2, 3));
    assert!(both(spread(|_| "/".into(), true), 0, 1));
}

#[test]
fn each_route_keeps_its_clients_by_a_cookie_of_its_own() {
    let name = |n: u8| json!({"name": format!("u{n}")});
    let routes = |first: &str| {
        let a = json!({"path-prefix": "/a", "upstreams": [name(0), name(1)]});
        let b = json!({"path-prefix": "/b", "upstreams": [name(2), name(3)]});
        let off = json!({"path-prefix": "/off", "upstreams": [name(0), name(1)], "sticky": false});
        let own = json!({"path-prefix": "/own", "upstreams": [name(0), name(1)], "sticky": {"cookie": "own"}});
        if first == "a" { json!([a, b, off, own]) } else { json!([b, a, off, own]) }
    };
    let top = json!({"sticky": {"cookie": "lb", "secure": true}, "upstreams": [name(0), name(4)]});
    let mut cookies = Vec::new();
    for first in ["a", "b"] {
        let mut harness = routed(5, routes(first), top.clone()).unwrap();
        let mut jar: Vec<String> = Vec::new();
        let mut homes = Vec::new();
        for path in ["/a", "/b", "/own", "/"] {
            let (upstream, response) = send(&mut harness, &Message::get(path), 200);
            let cookie = response.get_field("set-cookie").unwrap();
            assert_eq!(cookie.contains("Secure"), path != "/own", "{cookie}");
            jar.push(cookie.split_once(';').unwrap().0.into());
            homes.push((path, upstream));
        }
        for _ in 0..3 {
            for (path, home) in &homes {
                let request = Message::get(path).field("cookie", jar.join("; "));
                let (upstream, response) = send(&mut harness, &request, 200);
                assert_eq!((upstream, response.get_field("set-cookie")), (*home, None), "{path}");
            }
        }
        let (_, response) = send(&mut harness, &Message::get("/off"), 200);
        assert_eq!(response.get_field("set-cookie"), None);
        assert_eq!(harness.remembered(), 0);
        cookies.push(jar);
    }
    assert_eq!(cookies[0], cookies[1], "cookies do not depend on a route's place");
    let names: Vec<_> = cookies[0].iter().map(|pair| pair.split_once('=').unwrap().0).collect();
    assert!(names[0].starts_with("lb-") && names[1].starts_with("lb-"), "{names:?}");
    assert!(names[0] != names[1] && names[2..] == ["own", "lb"], "{names:?}");
}

#[test]
fn each_route_ejects_for_itself() {
    let both = json!([{"name": "u0"}, {"name": "u1"}]);
    let routes = json!([
        {"path-prefix": "/a", "upstreams": both},
        {"path-prefix": "/b", "upstreams": both, "outlier": {"consecutive-5xx": 3}},
        {"path-prefix": "/c", "upstreams": both, "outlier": false},
    ]);
    let top = json!({"outlier": {"consecutive-5xx": 1}, "upstreams": both});
    let mut harness = routed(2, routes, top).unwrap();
    let mut fail = |path: &str| {
        let (upstream, _) = send(&mut harness, &Message::get(path), 500);
        (upstream, harness.counter("ejections"), harness.gauge("ejected").unwrap_or_default())
    };
    assert_eq!(fail("/a"), (0, 1, 1.0));
    assert_eq!(fail("/a"), (1, 1, 1.0));
    assert_eq!(fail("/a"), (1, 1, 1.0));
    assert_eq!(fail("/b"), (0, 1, 1.0), "of one route it says nothing about another");
    for _ in 0..3 {
        fail("/b");
    }
    assert_eq!(fail("/b"), (0, 2, 2.0));
    for turn in 0..10 {
        assert_eq!(fail("/c"), (turn % 2, 2, 2.0));
    }
    assert_eq!(fail("/"), (0, 3, 3.0));
    let log: Vec<_> = harness.log().into_iter().map(|(_, line)| line).collect();
    assert!(log[0].contains("upstream u0 is left out of routes[0] for 30 s"), "{log:?}");
    assert!(log[2].contains("upstream u0 is left out for 30 s"), "{log:?}");
}

#[test]
fn mistakes_are_named_with_their_place() {
    let up = json!([{"name": "u0"}]);
    let refused = |route: &Value, top: &Value| {
        let mut route = route.clone();
        if route.get("upstreams").is_none() {
            route["upstreams"] = up.clone();
        }
        let first = json!({"path": "/first", "upstreams": up, "sticky": {"cookie": "first"}});
        routed(2, json!([first, route]), top.clone()).unwrap_err()
    };
    let top = json!({"upstreams": up, "sticky": {"cookie": "lb"}});
    for (route, part) in [
        (json!({}), "routes[1]: it has no condition"),
        (json!({"fields": {}}), "routes[1]: it has no condition"),
        (json!({"path": "/a", "upstreams": []}), "routes[1].upstreams: the list is empty"),
        (
            json!({"path": "/a", "upstreams": [{"name": "u9"}]}),
            "routes[1]: upstreams[0]: no upstream",
        ),
        (json!({"path": "/a", "path-prefix": "/a"}), "routes[1]: only one of path and path-prefix"),
        (json!({"path": "a"}), "routes[1]: path: \"a\" is no path"),
        (json!({"path-prefix": ""}), "routes[1]: path-prefix: \"\" is no path"),
        (json!({"path": "/a b"}), "routes[1]: path: \"/a b\" has ' '"),
        (json!({"path": "/a?b"}), "routes[1]: path: \"/a?b\" is no path"),
        (json!({"host": []}), "routes[1]: host: the list is empty"),
        (json!({"host": ""}), "routes[1]: host: \"\" is no host"),
        (json!({"host": "*"}), "routes[1]: host: \"*\" is no host"),
        (json!({"host": "*.*.a"}), "routes[1]: host: \"*.*.a\" is no host"),
        (json!({"host": "a.*.b"}), "routes[1]: host: \"a.*.b\" is no host"),
        (json!({"host": "*a.b"}), "routes[1]: host: \"*a.b\" is no host"),
        (json!({"host": ".a.b"}), "routes[1]: host: \".a.b\" is no host"),
        (json!({"host": "a:http"}), "routes[1]: host: \"a:http\" is no host"),
        (json!({"host": "https://a"}), "routes[1]: host: \"https://a\" is no host"),
        (json!({"method": "get"}), "routes[1]: method: \"get\""),
        (json!({"fields": {"X-A": "1"}}), "routes[1]: fields.X-A: "),
        (json!({"fields": {"host": "a"}}), "routes[1]: fields.host: "),
        (json!({"fields": {"te": "a"}}), "routes[1]: fields.te: "),
        (json!({"fields": {"x": "~a"}}), "routes[1]: fields.x: \"~a\" is an expression"),
        (json!({"fields": {"x": "a "}}), "routes[1]: fields.x: \"a \" is no field value"),
        (json!({"path": "/a", "policy": "hash"}), "routes[1]: hash: policy \"hash\" needs"),
        (json!({"path": "/a", "hash": "client"}), "routes[1]: hash: only policy"),
        (json!({"path": "/a", "sticky": true}), "routes[1].sticky: "),
        (json!({"path": "/a", "sticky": {"cookie": "a b"}}), "routes[1]: sticky.cookie: "),
        (
            json!({"path": "/a", "sticky": {"cookie": "first"}}),
            "sticky.cookie: \"first\" is that of routes[1]",
        ),
        (
            json!({"path": "/a", "sticky": {"cookie": "lb"}}),
            "routes[1].sticky.cookie: \"lb\" is that of the top level",
        ),
        (
            json!({"path": "/a", "outlier": {"max-percent": 101}}),
            "routes[1]: outlier: max-percent 101",
        ),
        (json!({"path": "/a", "exact": true}), "routes[1].exact: unknown field"),
        (
            json!({"path": "/first", "method": "GET"}),
            "routes[1]: no request comes to it, as routes[0]",
        ),
    ] {
        let error = refused(&route, &top);
        assert!(error.contains(part), "{route}: {error}");
    }
    let route = json!({"path": "/a"});
    for (top, part) in [
        (json!({}), "upstreams: name those that get what no route takes"),
        (json!({"upstreams": up, "otherwise": "refuse"}), "upstreams: nothing goes to them"),
        (json!({"otherwise": "404"}), "otherwise: unknown variant `404`"),
        (json!({"otherwise": "refuse", "sticky": {"cookie": ""}}), "sticky.cookie: \"\""),
    ] {
        let error = refused(&route, &top);
        assert!(error.starts_with(part), "{top}: {error}");
    }
    let error = routed(1, json!([]), json!({})).unwrap_err();
    assert!(error.starts_with("routes: the list is empty"), "{error}");
    let error = MessageHarness::<Balancer>::new(json!({"otherwise": "refuse"})).unwrap_err();
    assert!(error.starts_with("otherwise: "), "{error}");
    let many = |n: usize| {
        let routes = (0..n).map(|n| json!({"path": format!("/{n}"), "upstreams": up}));
        routed(1, routes.collect(), json!({"otherwise": "refuse"})).map(|_| ())
    };
    assert_eq!(many(128), Ok(()));
    assert!(many(129).unwrap_err().starts_with("routes: 129 are too many"));
}

/// A request, as far as routes can see it.
#[derive(Clone, Copy, Debug)]
struct Request {
    host: &'static str,
    port: Option<u16>,
    tls: bool,
    path: &'static str,
    method: &'static str,
    field: Option<&'static str>,
}

impl Request {
    fn message(&self) -> Message {
        let authority = match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.into(),
        };
        let message = Message::request(self.method, self.path).authority(&authority);
        let message = if self.tls { message.tls(self.host) } else { message };
        self.field.iter().fold(message, |message, value| message.field("x", value))
    }

    /// Whether a route's configuration means this request: by labels and segments, as one would say
    /// it.
    fn is_meant(&self, route: &Value) -> bool {
        let texts = |key: &str| -> Option<Vec<&str>> {
            Some(route.get(key)?.as_array()?.iter().filter_map(Value::as_str).collect())
        };
        let host = texts("host").is_none_or(|hosts| hosts.iter().any(|host| self.is_at(host)));
        let method = texts("method").is_none_or(|methods| methods.contains(&self.method));
        let path = match (route.get("path"), route.get("path-prefix").and_then(Value::as_str)) {
            (Some(path), _) => path == self.path,
            (_, Some(prefix)) => {
                let mut wanted: Vec<&str> = prefix.split('/').collect();
                if prefix.ends_with('/') {
                    wanted.pop();
                }
                let segments: Vec<&str> = self.path.split('/').collect();
                let more = usize::from(prefix.ends_with('/'));
                segments.len() >= wanted.len() + more && segments[..wanted.len()] == wanted
            }
            _ => true,
        };
        let field = match route["fields"]["x"].as_str() {
            None => true,
            Some("*") => self.field.is_some(),
            Some("!") => self.field.is_none(),
            wanted => self.field == wanted,
        };
        host && method && path && field
    }

    fn is_at(&self, pattern: &str) -> bool {
        let (name, port) = pattern.split_once(':').map_or((pattern, None), |(n, p)| (n, Some(p)));
        let own = self.port.unwrap_or(if self.tls { 443 } else { 80 });
        let labels = |name: &str| -> Vec<String> {
            name.to_lowercase().split('.').map(String::from).collect()
        };
        let (wanted, host) = (labels(name), labels(self.host));
        let name = if wanted[0] == "*" {
            host.len() >= wanted.len() && host.ends_with(&wanted[1..])
        } else {
            host == wanted
        };
        name && port.is_none_or(|port| port == own.to_string())
    }
}

/// Requests of which at least one tells any two conditions of [`conditions`] apart that differ.
fn requests() -> Vec<Request> {
    let mut all = Vec::new();
    for host in
        ["example.com", "A.example.com", "a.b.Example.com", "c.example.com", "badexample.com"]
    {
        for (port, tls) in [(None, false), (None, true), (Some(80), true), (Some(8443), false)] {
            for path in ["/", "/api", "/api/", "/api/x", "/apix", "/api/x/y", "*", "/API", "//api"]
            {
                for method in ["GET", "POST", "PUT"] {
                    for field in [None, Some("1"), Some("2")] {
                        all.push(Request { host, port, tls, path, method, field });
                    }
                }
            }
        }
    }
    all
}

fn conditions() -> impl Strategy<Value = Value> {
    let hosts = prop::sample::subsequence(
        vec![
            "example.com",
            "*.example.com",
            "a.example.com",
            "Example.com:8443",
            "*.b.example.com",
            "example.com:80",
            "*.example.com:8443",
        ],
        1..3,
    );
    let path = prop::sample::select(vec![
        ("path", "/"),
        ("path", "/api"),
        ("path", "/api/x"),
        ("path-prefix", "/"),
        ("path-prefix", "/api"),
        ("path-prefix", "/api/"),
        ("path-prefix", "/api/x"),
    ]);
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 1..3);
    let field = prop::sample::select(vec!["*", "!", "1"]);
    let all = (
        prop::option::of(hosts),
        prop::option::of(path),
        prop::option::weighted(0.3, methods),
        prop::option::weighted(0.3, field),
    );
    all.prop_map(|(hosts, path, methods, field)| {
        let mut route = json!({});
        if let Some(hosts) = hosts {
            route["host"] = json!(hosts);
        }
        if let Some((key, path)) = path {
            route[key] = path.into();
        }
        if let Some(methods) = methods {
            route["method"] = json!(methods);
        }
        if let Some(field) = field {
            route["fields"] = json!({"x": field});
        }
        route
    })
    .prop_filter("a route has a condition", |route| *route != json!({}))
}

proptest! {
    #[test]
    fn a_route_is_refused_if_an_earlier_one_takes_all_that_it_would(
        first in conditions(), second in conditions(),
    ) {
        let hidden = requests().iter().all(|r| !r.is_meant(&second) || r.is_meant(&first));
        let refused = one_each(&[first, second]).err();
        prop_assert_eq!(refused.is_some(), hidden, "{:?}", refused);
        prop_assert!(refused.is_none_or(|e| e.starts_with("routes[1]: no request comes to it")));
    }

    #[test]
    fn requests_go_where_the_first_route_that_means_them_says(
        routes in prop::collection::vec(conditions(), 1..6),
        picked in prop::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let all = requests();
        let mut kept: Vec<Value> = Vec::new();
        for route in routes {
            let hidden = |by: &Value| all.iter().all(|r| !r.is_meant(&route) || r.is_meant(by));
            if !kept.iter().any(hidden) {
                kept.push(route);
            }
        }
        let mut harness = one_each(&kept).unwrap();
        for at in picked {
            let request = at.get(&all);
            let meant = kept.iter().position(|route| request.is_meant(route));
            let route = taken(&mut harness, &request.message());
            prop_assert_eq!(route, meant.unwrap_or(kept.len()), "{:?} {:?}", request, kept);
        }
    }
}
