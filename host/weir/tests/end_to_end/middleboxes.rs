//! The functions of the message plane that come with Weir, in a host, with curl before it and
//! Python's server behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use weir_tests::built::built_file;

use crate::host::Host;
use crate::messages::{Server, address, curl};

/// A host whose listener shows everything to one function with this configuration, with so many
/// servers behind it.
fn host_with(function: &str, config: &str, protocol: &str, servers: &[&Server]) -> Host {
    let upstreams: Vec<String> =
        servers.iter().map(|server| format!("\"127.0.0.1:{}\"", server.port)).collect();
    let host = Host::start(&format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\nchain = \"web\"\n\
         upstream = [{}]\n",
        upstreams.join(", ")
    ));
    let file = built_file(function);
    host.ok(&["function", "push", file.to_str().expect("text")]);
    host.write(
        "c.toml",
        format!("name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"{function}\"\n[function.config]\n{config}\n"),
    );
    host.ok(&["chain", "apply", "c.toml"]);
    host
}

fn url(host: &Host, path: &str) -> String {
    format!("http://{}{path}", address(host, 0))
}

#[test]
fn waf_answers_attacks_and_lets_the_rest_through() {
    let server = Server::start();
    let host = host_with("waf", "", "http", &[&server]);
    for attack in [
        "/?id=1%27%20OR%20%271%27=%271",
        "/?q=%3Cscript%3Ealert(1)%3C/script%3E",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
    ] {
        let (status, text) = curl(&["--path-as-is", &url(&host, attack)]);
        assert_eq!(status, 403, "{attack}: {text}");
    }
    let (status, text) =
        curl(&["--data", "name=x&comment=%3Cscript%3Ealert(1)%3C%2Fscript%3E", &url(&host, "/")]);
    assert_eq!(status, 403, "{text}");
    let (status, text) =
        curl(&["--data", "name=O%27Brien&comment=5+%3C+6", &url(&host, "/form?q=rust+or+go")]);
    assert!(status == 200 && text.contains("name=O%27Brien&comment=5+%3C+6"), "{text}");
    // More faults than a function may have; it has none. curl sends no such field.
    for _ in 0..6 {
        let mut stream = TcpStream::connect(address(&host, 0)).expect("a connection");
        let head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n";
        let kind =
            b"content-type: multipart/form-data;\xff\xff\xff\xff\xff\xff\xff boundary=x\r\n\r\na=b";
        stream.write_all(&[&head[..], kind].concat()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    for hidden in ["content-encoding: x", "content-type: application/x-www-form-urlencoded, x"] {
        let (status, text) =
            curl(&["--header", hidden, "--data", "user=%27+or+1%3D1--", &url(&host, "/")]);
        assert_eq!(status, 403, "{hidden}: {text}");
    }
    let file = "f=a <script>;filename=page.html;type=text/html";
    let (status, text) = curl(&["--form-string", "a=b c", "--form", file, &url(&host, "/upload")]);
    assert!(status == 200 && text.contains("page.html"), "{text}");
}

#[test]
fn rewrite_changes_targets_and_fields_and_redirects() {
    let server = Server::start();
    let config = r#"rules = [
    { path = "/old", redirect = "/new${query}", status = 308 },
    { path-regex = "^/item/([0-9]+)$", rewrite = "/items?id=$1", request = { set = { x-client = "${client}" } } },
    { path-regex = "^/tenant/([^/]*)/", rewrite = "/", authority = "$1.internal" },
    { response = { remove = ["server"], set = { x-frame-options = "DENY" } } },
]"#;
    let host = host_with("rewrite", config, "http", &[&server]);
    // More of them than faults that a function may have.
    for _ in 0..6 {
        assert_eq!(curl(&[&url(&host, "/tenant/%41/x")]).0, 400, "no host has a percent sign");
    }
    let (status, text) = curl(&[&url(&host, "/tenant/a/x")]);
    assert!(status == 200 && text.contains("[\"host\", \"a.internal\"]"), "{text}");
    let (status, text) = curl(&[&url(&host, "/old?a=b")]);
    assert!(status == 308 && text.contains("location: /new?a=b"), "{text}");
    let (status, text) = curl(&[&url(&host, "/item/77")]);
    assert!(status == 200 && text.contains("\"path\": \"/items?id=77\""), "{text}");
    assert!(text.contains("[\"x-client\", \"127.0.0.1\"]"), "{text}");
    assert!(text.contains("x-frame-options: DENY") && !text.contains("Python"), "{text}");
}

#[test]
fn ratelimit_answers_who_comes_too_often() {
    let server = Server::start();
    let config = "rules = [ { name = \"client\", rate = \"3/h\", key = [\"field:x-key\"] }, \
                  { name = \"all\", rate = \"5/h\", path-prefix = \"/shared\", key = [\"all\"], shared = true } ]";
    let host = host_with("http-ratelimit", config, "http", &[&server]);
    let ask =
        |path: &str, key: &str| curl(&["--header", &format!("x-key: {key}"), &url(&host, path)]);
    let statuses: Vec<u16> = (0..4).map(|_| ask("/", "a").0).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    let (status, text) = ask("/", "a");
    assert!(status == 429 && text.to_ascii_lowercase().contains("retry-after:"), "{text}");
    assert_eq!(ask("/", "b").0, 200);
    let statuses: Vec<u16> = (0..6).map(|n| ask("/shared", &n.to_string()).0).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
}

#[test]
fn jwt_lets_only_valid_tokens_through() {
    let server = Server::start();
    let secret = "a secret of at least thirty-two bytes!";
    let config = format!(
        "keys = [ {{ secret = \"{secret}\" }} ]\naudiences = [\"api\"]\nclaims = {{ sub = \"x-user\" }}\npublic = [\"/health\"]"
    );
    let host = host_with("auth-jwt", &config, "http", &[&server]);
    let token = |script: &str| {
        let code = format!(
            "import base64, hashlib, hmac, json, time\n\
             b = lambda x: base64.urlsafe_b64encode(x).rstrip(b'=')\n\
             def sign(claims, secret='{secret}', alg='HS256'):\n  \
               head = b(json.dumps({{'alg': alg}}).encode()) + b'.' + b(json.dumps(claims).encode())\n  \
               return (head + b'.' + b(hmac.new(secret.encode(), head, hashlib.sha256).digest())).decode()\n\
             print(sign({script}), end='')"
        );
        let output = Command::new("python3").args(["-c", &code]).output().expect("python3 starts");
        String::from_utf8(output.stdout).expect("text")
    };
    let with = |token: &str, path: &str| {
        curl(&["--header", &format!("authorization: Bearer {token}"), &url(&host, path)])
    };
    let (status, text) = curl(&[&url(&host, "/")]);
    assert!(
        status == 401 && text.to_ascii_lowercase().contains("www-authenticate: bearer"),
        "{text}"
    );
    for forged in ["x-user: root", "X_User: root"] {
        let (status, text) = curl(&["--header", forged, &url(&host, "/health")]);
        assert!(status == 200 && !text.contains("root"), "{forged}: {text}");
    }
    let good = token("{'sub': 'ann', 'aud': 'api', 'exp': time.time() + 600}");
    let (status, text) = with(&good, "/");
    assert!(status == 200 && text.contains("[\"x-user\", \"ann\"]"), "{text}");
    for bad in [
        "{'sub': 'ann', 'aud': 'api', 'exp': time.time() - 600}",
        "{'sub': 'ann', 'aud': 'other', 'exp': time.time() + 600}",
        "{'sub': 'ann', 'aud': 'api', 'exp': time.time() + 600}, 'another secret of thirty-two bytes!!!'",
        "{'sub': 'ann', 'aud': 'api', 'exp': time.time() + 600}, alg='none'",
    ] {
        let (status, text) = with(&token(bad), "/");
        assert_eq!(status, 401, "{bad}: {text}");
    }
}

#[test]
fn cache_answers_what_is_fresh_and_asks_for_the_rest() {
    let server = Server::start();
    let host = host_with("http-cache", "", "http", &[&server]);
    // The server answers with what it is asked to in the query.
    let get = |path: &str| curl(&[&url(&host, path)]).1.to_ascii_lowercase();
    let fresh = "/n?cache-control=max-age=600";
    let first = get(fresh);
    assert!(first.contains("cache-status: weir; fwd=") && first.contains("stored"), "{first}");
    let second = get(fresh);
    assert!(second.contains("cache-status: weir; hit") && second.contains("age:"), "{second}");
    let body = |text: &str| text.split("\r\n\r\n").nth(1).map(str::to_owned);
    assert_eq!(body(&first), body(&second));
    assert_ne!(body(&get("/n?cache-control=no-store")), body(&get("/n?cache-control=no-store")));
    curl(&["--data", "x", &url(&host, fresh)]);
    let third = get(fresh);
    assert!(third.contains("fwd="), "an unsafe method invalidates: {third}");
    // What is asked for in place of what is stale goes the way of any request.
    let stale = "/n?cache-control=max-age=0,stale-while-revalidate=60&etag=%221%22";
    for why in ["uri-miss", "stale"] {
        let text = curl(&["--header", "x-forwarded-host: evil.example", &url(&host, stale)]).1;
        assert!(text.contains(&format!("weir; fwd={why}; stored")), "{text}");
        assert!(text.contains("x-forwarded-host") && !text.contains("evil"), "{text}");
    }
}

#[test]
fn lb_takes_turns_and_keeps_clients_where_they_are() {
    let servers = [Server::start(), Server::start()];
    let all: Vec<&Server> = servers.iter().collect();
    let host = host_with("http-lb", "sticky = { cookie = \"lb\" }", "http", &all);
    let who = |arguments: &[&str]| {
        let address = url(&host, "/");
        let text = curl(&[arguments, &[&address]].concat()).1;
        let port = text.split("\"server\": ").nth(1).expect("it says who it is");
        let port: u16 = port.split(['}', ',']).next().unwrap().trim().parse().unwrap();
        let cookie = text.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        (port, cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned))
    };
    let turns: Vec<u16> = (0..6).map(|_| who(&[]).0).collect();
    for server in &servers {
        assert_eq!(turns.iter().filter(|port| **port == server.port).count(), 3, "{turns:?}");
    }
    let (port, cookie) = who(&[]);
    let cookie = cookie.expect("a cookie");
    for _ in 0..4 {
        assert_eq!(who(&["--cookie", &cookie]).0, port);
    }
}

#[test]
fn lb_routes_by_host_and_path() {
    let servers = [Server::start(), Server::start(), Server::start()];
    let name = |server: &Server| format!("[{{ name = \"127.0.0.1:{}\" }}]", server.port);
    let routes = format!(
        "routes = [\n\
         {{ host = \"*.example.com\", path-prefix = \"/v2\", upstreams = {} }},\n\
         {{ path-prefix = \"/api\", method = [\"GET\", \"POST\"], upstreams = {} }},\n]\n",
        name(&servers[0]),
        name(&servers[1]),
    );
    let rest = format!("upstreams = {}\n", name(&servers[2]));
    let all: Vec<&Server> = servers.iter().collect();
    let host = host_with("http-lb", &format!("{rest}{routes}"), "http", &all);
    let ask = |method: &str, authority: &str, path: &str| {
        let field = format!("host: {authority}");
        curl(&["--path-as-is", "--request", method, "--header", &field, &url(&host, path)])
    };
    for (method, authority, path, server) in [
        ("GET", "API.example.com:8080", "/v2/x?y", 0),
        ("POST", "api.example.com", "/v2", 0),
        ("GET", "api.example.com", "/v20", 2),
        ("GET", "example.com", "/v2", 2),
        ("GET", "example.com", "/api/", 1),
        ("PUT", "example.com", "/api/", 2),
        ("GET", "example.com", "/apix", 2),
        ("GET", "example.com", "//api", 2),
        ("GET", "example.com", "/%61pi", 2),
    ] {
        let (status, text) = ask(method, authority, path);
        let answered = format!("\"server\": {}", servers[server].port);
        assert!(status == 200 && text.contains(&answered), "{method} {authority}{path}: {text}");
    }
    let apply = |config: &str| {
        let head = "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"http-lb\"\n[function.config]\n";
        host.write("c.toml", format!("{head}{config}"));
        host.weir(&["chain", "apply", "c.toml"])
    };
    let more = format!(
        "\n{{ path = \"/api/x\", method = \"GET\", upstreams = {} }},\n]",
        name(&servers[2])
    );
    let hidden = routes.replace("\n]", &more);
    let answer = apply(&format!("{rest}{hidden}"));
    let told = answer.err.contains("no request comes to it, as routes[1] takes all that it would")
        && answer.err.contains("c.toml:10");
    assert!(answer.status != Some(0) && told, "{}", answer.err);
    let answer = apply(&format!("otherwise = \"refuse\"\n{routes}"));
    assert_eq!(answer.status, Some(0), "{}", answer.err);
    assert_eq!(ask("GET", "example.com", "/").0, 404);
    assert_eq!(ask("GET", "example.com", "/api").0, 200);
}

#[test]
fn tcp_policy_refuses_by_what_is_spoken() {
    let server = Server::start();
    let config = "default = \"deny\"\nrules = [ { action = \"allow\", protocol = [\"http\"] } ]";
    let host = host_with("tcp-policy", config, "tcp", &[&server]);
    let (status, text) = curl(&["--data", "hello", &url(&host, "/raw")]);
    assert!(status == 200 && text.contains("hello"), "{text}");
    let mut command = Command::new("curl");
    command.args(["--silent", "--insecure", "--max-time", "10"]);
    let refused =
        command.arg(format!("https://{}/", address(&host, 0))).output().expect("curl starts");
    assert!(!refused.status.success(), "TLS is not allowed");
}
