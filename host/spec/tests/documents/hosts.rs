//! The host's configuration.

use super::*;

pub(crate) const HOST: &str = r#"
[api]
socket = "/run/weir/api.sock"    # and/or listen = "127.0.0.1:7300" with tokens
[store]
path = "/var/lib/weir"
[[port]]
name = "in"
kind = "pcap"                    # pcap | xdp | dpdk | memory
file = "in.pcap"
[[port]]
name = "wan"
kind = "xdp"
interface = "veth0"
queue = 0
[[port]]
name = "vf0"
kind = "dpdk"
device = "0000:01:10.0"          # or a vdev: "net_af_packet0,iface=veth1"
[[listener]]                     # message plane
name = "web"
address = "0.0.0.0:8080"
protocol = "http"                # or "tcp"
chain = "web-chain"
upstream = ["127.0.0.1:9000"]
"#;

#[test]
fn the_documented_host_is_read() {
    let host = Document::<HostConfig>::parse("weir.toml", HOST).unwrap();
    assert_eq!(host.value.ports[2].kind, PortKind::Dpdk);
    assert_eq!(host.value.api.max_upload, Size::mebibytes(64));
    let listener = &host.value.listeners[0];
    assert_eq!(listener.upstream[0].address, "127.0.0.1:9000".parse().unwrap());
    assert_eq!(listener.chain.as_ref().map(Name::as_str), Some("web-chain"));
}

#[test]
fn a_listener_says_what_it_takes_and_impossible_ones_are_refused() {
    let listener = |keys: &str| {
        let text = format!(
            "[[listener]]\nname = \"web\"\nprotocol = \"http\"\naddress = \"127.0.0.1:80\"\n{keys}\n"
        );
        Document::<HostConfig>::parse("weir.toml", &text)
            .map(|document| document.value.listeners[0].clone())
            .map_err(|error| error.to_string())
    };
    let full = listener(
        r#"upstream = ["127.0.0.1:1", { address = "[::1]:2", weight = 3, tls = true, server-name = "a.example" }]
proxy-protocol = true
proxy-protocol-from = ["10.0.0.0/8", "2001:db8::1"]
[[listener.tls]]
certificate = "c.pem"
key = "k.pem"
[listener.client-certificates]
authorities = "ca.pem"
[listener.retry]
on = ["connect", 502]
[listener.health]
path = "/up"
interval = "1s""#,
    )
    .unwrap();
    assert_eq!((full.upstream[0].weight, full.upstream[1].weight), (1, 3));
    assert_eq!(full.retry.on.len(), 2);
    assert!(full.client_certificates.unwrap().required);
    let from: Vec<_> = full.proxy_protocol_from.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(from, ["10.0.0.0/8", "2001:db8::1"]);
    assert_eq!(full.resolve, Period::milliseconds(30_000));
    let named = listener("upstream = [\"API.example:8080\"]\nresolve = \"5s\"").unwrap();
    let name = weir_spec::Target::Name { host: "api.example".into(), port: 8080 };
    assert_eq!(
        (named.upstream[0].address.clone(), named.resolve),
        (name, Period::milliseconds(5000))
    );
    assert_eq!(full.health.unwrap().timeout, Period::milliseconds(2000));
    let other = "[[listener]]\nname = \"b\"\nprotocol = \"tcp\"\nchain = \"d\"\naddress = \"127.0.0.1:80\"\ndevice = \"eth1\"";
    listener(&format!("chain = \"c\"\n{other}")).unwrap();
    for (keys, message) in [
        ("", "neither an upstream nor a chain"),
        ("upstream = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "named twice"),
        ("upstream = [{ address = \"127.0.0.1:1\", tls = true }]", "no name to expect"),
        ("upstream = [\"nonsense\"]", "\"nonsense\" is neither an address nor a name with a port"),
        ("upstream = [\"10.0.0.300:80\"]", "neither an address"),
        // The key that is wrong is named and underlined, also in one of several tables.
        (
            "upstream = [\"127.0.0.1:1\", { address = \"127.0.0.1:2\", wieght = 2 }]",
            "= key: listener[0].upstream[1].wieght",
        ),
        (
            "upstream = [{ address = \"127.0.0.1:2\", weight = 99999999999 }]",
            "= key: listener[0].upstream[0].weight",
        ),
        (
            "upstream = [{ address = \"127.0.0.1:80800\" }]",
            "\"127.0.0.1:80800\" is neither an address nor a name with a port from 1 to 65535",
        ),
        ("upstream = [{ weight = 2 }]", "address"),
        ("upstream = [7]", "or a table with `address`"),
        (
            "chain = \"c\"\n[listener.limits]\nconnections = 0",
            "= key: listener[0].limits.connections",
        ),
        (
            "chain = \"c\"\n[listener.limits]\nupstream-connections = 0",
            "= key: listener[0].limits.upstream-connections",
        ),
        ("chain = \"c\"\n[listener.retry]\nbudget = 101", "= key: listener[0].retry.budget"),
        ("upstream = [\"a.example:80\", \"A.example:80\"]", "named twice"),
        ("chain = \"c\"\nproxy-protocol-from = [\"10.0.0.0/8\"]", "add `proxy-protocol = true`"),
        (
            "chain = \"c\"\nproxy-protocol = true\nproxy-protocol-from = []",
            "= key: listener[0].proxy-protocol-from",
        ),
        (
            "chain = \"c\"\nproxy-protocol = true\nproxy-protocol-from = [\"10.0.0.1/8\"]",
            "bits behind its length are set",
        ),
        ("resolve = \"1ms\"\nupstream = [\"a.example:80\"]", "allowed: 100ms to 24h"),
        ("chain = \"c\"\n[gateway]\nresponse-buffers = \"1023KiB\"", "gateway.response-buffers"),
        ("chain = \"c\"\n[gateway]\nworker-timeout = \"1ms\"", "allowed: 100ms to 10m"),
        ("chain = \"c\"\n[gateway]\nworker-timeout = \"601s\"", "allowed: 100ms to 10m"),
        ("chain = \"c\"\n[listener.timeouts]\nheader = \"0s\"", "allowed: 1ms and more"),
        ("chain = \"c\"\n[listener.timeouts]\nheader = \"500us\"", "500us is too short"),
        ("chain = \"c\"\n[listener.health]\nhealthy = 0", "= key: listener[0].health.healthy"),
        ("chain = \"c\"\n[listener.health]\nunhealthy = 0", "health.unhealthy"),
        ("chain = \"c\"\n[listener.health]\ninterval = \"0s\"", "allowed: 10ms and more"),
        ("chain = \"c\"\n[listener.health]\ntimeout = \"0s\"", "health.timeout"),
        ("chain = \"c\"\n[listener.health]\npath = \"up\"", "\"up\" is no path"),
        ("chain = \"c\"\n[listener.health]\npath = \"/no slash\"", "health.path"),
        ("chain = \"c\"\n[listener.health]\nhost = \"a b\"", "health.host"),
        ("upstream = [\"127.0.0.1:0\"]", "with a port from 1 to 65535"),
        (
            "chain = \"c\"\nproxy-protocol = true\nproxy-protocol-from = [\"::1\", \"::ffff:10.0.0.0/104\"]",
            "write \"10.0.0.0/8\"",
        ),
        (
            "chain = \"c\"\n[[listener]]\nname = \"b\"\nprotocol = \"tcp\"\naddress = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\nchain = \"d\"",
            "127.0.0.1:1 is named twice",
        ),
        (
            "chain = \"c\"\n[[listener]]\nname = \"b\"\nprotocol = \"tcp\"\naddress = \"[::ffff:127.0.0.1]:1\"\nchain = \"d\"",
            "write \"127.0.0.1:1\"",
        ),
        (
            "chain = \"c\"\n[[listener.tls]]\ncertificate = \"c\"\nkey = \"k\"\n\
             [listener.client-certificates]\nauthorities = \"a\"\nenforce-next-update = true",
            "= key: listener[0].client-certificates.enforce-next-update",
        ),
        (
            "chain = \"c\"\n[listener.client-certificates]\nauthorities = \"a\"",
            "= key: listener[0].client-certificates",
        ),
        (
            "upstream = [{ address = \"a.example:1\", certificate = \"c\", key = \"k\" }]",
            "= key: listener[0].upstream[0].certificate",
        ),
        (
            "upstream = [{ address = \"a.example:1\", tls = true, server-name = \"a\", certificate = \"c\" }]",
            "add `key`",
        ),
        (
            "upstream = [{ address = \"a.example:1\", tls = true, server-name = \"a\", key = \"k\" }]",
            "add `certificate`",
        ),
        ("chain = \"c\"\n[listener.retry]\non = [200]", "400 to 599"),
        ("chain = \"c\"\n[listener.limits]\nfeilds = 3", "feilds"),
        (
            "chain = \"c\"\n[[listener]]\nname = \"b\"\nprotocol = \"tcp\"\naddress = [\"[::]:80\", \"127.0.0.1:80\"]\nchain = \"d\"",
            "127.0.0.1:80 is where listener web listens, too",
        ),
    ] {
        let error = listener(keys).unwrap_err();
        assert!(error.contains(message), "{keys}: {error}");
    }
    // What is about requests, at a listener that has none.
    for (keys, key) in [
        ("forwarded = \"keep\"", "forwarded"),
        ("limits = { body = \"1KiB\" }", "limits.body"),
        ("limits = { requests-per-connection = 9 }", "limits.requests-per-connection"),
        ("retry = { on = [\"connect\", 502] }", "retry.on"),
    ] {
        listener(&format!("chain = \"c\"\n{keys}")).unwrap();
        let other = "[[listener]]\nname = \"b\"\nprotocol = \"tcp\"\nchain = \"d\"\naddress = \"127.0.0.1:81\"";
        let error = listener(&format!("chain = \"c\"\n{other}\n{keys}")).unwrap_err();
        assert!(error.contains(&format!("= key: listener[1].{key}\n")), "{keys}: {error}");
    }
}

#[test]
fn a_capture_is_written_by_one_port_and_read_by_none() {
    let ports = |ports: &[&str]| {
        let text: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(n, keys)| format!("[[port]]\nname = \"p{n}\"\nkind = \"pcap\"\n{keys}\n"))
            .collect();
        Document::<HostConfig>::parse("weir.toml", &text.concat())
            .map(drop)
            .map_err(|error| error.to_string())
    };
    ports(&["file = \"a\"", "file = \"a\"\noutput = \"b\"", "output = \"c\""]).unwrap();
    ports(&["output = \"/dev/null\"", "output = \"/dev/null\""]).unwrap();
    for (of, message, key) in [
        (&["file = \"a\"", "output = \"a\""][..], "a is what port p0 reads", "port[1].output"),
        (&["output = \"./a\"", "file = \"a\""], "./a is what port p1 reads", "port[0].output"),
        (&["output = \"x/a\"", "output = \"x/./a\""], "is what port p1 writes", "port[0].output"),
        (&["file = \"a\"\noutput = \"./a\""], "the file that is read", "port[0].output"),
    ] {
        let error = ports(of).unwrap_err();
        assert!(error.contains(message) && error.contains(&format!("= key: {key}\n")), "{error}");
    }
}

#[test]
fn a_quota_of_nothing_is_refused() {
    for key in ["functions = 0", "wasm = \"0B\"", "configuration = \"0B\""] {
        let error = Document::<HostConfig>::parse("weir.toml", &format!("[quota]\n{key}\n"));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("no tenant could do anything"), "{error}");
    }
}

#[test]
fn the_operators_own_functions_may_have_all_the_time_that_there_is_and_others_not() {
    let quota = |text: &str| Document::<HostConfig>::parse("weir.toml", text).unwrap().value.quota;
    let [own, other] = ["default", "acme"].map(|name| name.parse::<Name>().unwrap());
    let all = |quota: &Quota| [&own, &other].map(|tenant| quota.deadline_of(tenant));
    assert_eq!(all(&quota("")), [10_000, 50].map(Period::milliseconds));
    assert_eq!(all(&quota("[quota]\ndeadline = \"1s\"\n")), [1000; 2].map(Period::milliseconds));
}

#[test]
fn an_xdp_port_says_what_it_takes_and_impossible_ones_are_refused() {
    let port = |keys: &str| {
        let text = format!("[[port]]\nname = \"wan\"\nkind = \"xdp\"\n{keys}\n");
        Document::<HostConfig>::parse("weir.toml", &text)
            .map(|document| document.value.ports[0].clone())
    };
    let full = port(
        "interface = \"eth0\"\nqueue = 3\nmode = \"native\"\npin = \"/sys/fs/bpf\"\nbusy-poll = \"20us\"\nrx-ring = 2048\ntx-ring = 512\n\
         leave = [{ ethertype = \"lldp\" }]\nclaim = [{ vlan = 100 }, { destination = \"02:00:00:00:00:01\", ethertype = \"0x88b5\" }]",
    )
    .unwrap();
    assert_eq!((full.mode, full.rx_ring, full.claim.len()), (Some(XdpMode::Native), Some(2048), 2));
    assert_eq!(full.leave[0].ethertype.unwrap().get(), 0x88cc);
    assert_eq!(full.pin, Some(XdpPin::At("/sys/fs/bpf".into())));
    let never = port("interface = \"eth0\"\npin = false").unwrap();
    assert_eq!(never.pin, Some(XdpPin::Never));
    let json = serde_json::to_string(&[&full, &never]).unwrap();
    assert_eq!(serde_json::from_str::<Vec<weir_spec::Port>>(&json).unwrap(), [full, never]);
    for (keys, key, line, message) in [
        ("", "port[0].interface", 1, "needs `interface`"),
        ("interface = \"a/b\"", "port[0].interface", 4, "is not an interface's name"),
        ("interface = \"e\"\nmode = \"fast\"", "port[0].mode", 5, "unknown value `fast`"),
        ("interface = \"e\"\nqueue = 64", "port[0].queue", 5, "`queue` is 64"),
        ("interface = \"e\"\nqueues = 65", "port[0].queues", 5, "`queues` is 65"),
        ("interface = \"e\"\nqueue = 60\nqueues = 5", "port[0].queues", 6, "`queues` is 5"),
        ("interface = \"e\"\npin = true", "port[0].pin", 5, "expected false, or the path"),
        ("interface = \"e\"\npin = \"bpf\"", "port[0].pin", 5, "not an absolute path"),
        ("interface = \"e\"\nrx-ring = 1000", "port[0].rx-ring", 5, "a ring of 1000"),
        ("interface = \"e\"\nbusy-poll = \"1s\"", "port[0].busy-poll", 5, "1s is out of range"),
        ("interface = \"e\"\nleave = [{}]", "port[0].leave[0]", 5, "nothing is named"),
        (
            "interface = \"e\"\nclaim = [{ vlan = 4095 }]",
            "port[0].claim[0].vlan",
            5,
            "no VLAN 4095",
        ),
        (
            "interface = \"e\"\nclaim = [{ ethertype = \"ip\" }]",
            "port[0].claim[0].ethertype",
            5,
            "not an EtherType",
        ),
        ("interface = \"e\"\nfile = \"x\"", "port[0].file", 5, "has no `file`"),
    ] {
        let error = port(keys).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(message) && text.lines().any(|l| l.ends_with(&format!("= key: {key}"))),
            "{text}"
        );
        assert!(text.contains(&format!("weir.toml:{line}:")), "{text}");
    }
}

#[test]
fn an_empty_host_file_is_a_host_with_the_defaults() {
    let host = Document::<HostConfig>::parse("weir.toml", "").unwrap().value;
    assert_eq!(host, HostConfig::default());
    assert_eq!(host.workers.number(), 1);
}

#[test]
fn workers_are_a_number_or_all() {
    let chain = |workers: &str| {
        let text = format!("name = \"edge\"\n{workers}\n[[function]]\nuse = \"a\"\n");
        Document::<Chain>::parse("edge.toml", &text).map(|document| document.value)
    };
    for (text, of_four) in
        [("", 1), ("workers = 1", 1), ("workers = 3", 3), ("workers = \"all\"", 4)]
    {
        let chain = chain(text).unwrap();
        assert_eq!(chain.workers.of(4), of_four, "{text}");
        let again = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&again).unwrap(), chain);
        assert_eq!(again.contains("workers"), of_four > 1, "{again}");
    }
    for wrong in ["0", "-1", "1025", "1.5", "true", "\"some\"", "[2]"] {
        let error = chain(&format!("workers = {wrong}")).unwrap_err().to_string();
        assert!(
            error.contains("expected a number of workers from 1 to 1024, or \"all\""),
            "{error}"
        );
        assert!(error.contains("edge.toml:2:11"), "{error}");
    }
    refused::<Chain>(
        "name = \"edge\"\nworkers = 2\n[[function]]\nuse = \"a\"\nper-worker = [{ slot = 0 }]\n",
        r"
1 table for 2 workers
 --> file.toml:5:14
  |
5 | per-worker = [{ slot = 0 }]
  |              ^^^^^^^^^^^^^^
  = key: function[0].per-worker
  = allowed: one for each of the chain's `workers`, or none
",
    );
    refused::<Manifest>(
        "state-shared = true\n",
        r#"
the function has no state region to share
 --> file.toml:1:16
  |
1 | state-shared = true
  |                ^^^^
  = key: state-shared
  = set `state = "region"`, or leave this key out
"#,
    );
}

#[test]
fn several_queues_are_for_xdp_and_dpdk() {
    let port = |keys: &str| format!("[[port]]\nname = \"a\"\n{keys}\nqueues = 2\n");
    let parse = |text: &str| Document::<HostConfig>::parse("weir.toml", text);
    for keys in ["kind = \"xdp\"\ninterface = \"eth0\"", "kind = \"dpdk\"\ndevice = \"net_null0\""]
    {
        assert_eq!(parse(&port(keys)).unwrap().value.ports[0].queues, Some(2));
    }
    let error = parse(&port("kind = \"memory\"")).unwrap_err().to_string();
    assert!(error.contains("a port of kind \"memory\" has no `queues`"), "{error}");
    let none = port("kind = \"xdp\"\ninterface = \"eth0\"").replace("= 2", "= 0");
    assert!(parse(&none).unwrap_err().to_string().contains("allowed: 1 to 64, from queue 0 on"));
}
