//! The same routes and packets through this router and through Linux's: the neighbour that each of
//! thousands of addresses leads to, and every byte that comes out. `kernel.py` drives the kernel,
//! in namespaces that end with it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use router::{Router, reason};
use serde_json::{Value, json};
use weir_sdk::Verdict;
use weir_sdk::testing::{Frame, Harness, Options};

const PREFIXES: usize = 400;
const LOOKUPS: usize = 1500;

/// Numbers that are the same in every run (Knuth, TAOCP, volume 2, 3.3.4).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 24) % end
    }
}

/// A random address near others, so that prefixes lie in each other: few bits of each group vary.
fn v4(random: &mut Random) -> u32 {
    let [b, c, d] = [random.below(8), random.below(32) * 8, random.below(256)].map(|n| n as u32);
    (20 + random.below(4) as u32) << 24 | b << 16 | c << 8 | d
}

fn v6(random: &mut Random) -> u128 {
    let groups = [4, 16, 4, 65_536].map(|end| u128::from(random.below(end)));
    0x2001_0db9 << 96 | groups[0] << 80 | groups[1] << 68 | groups[2] << 40 | groups[3]
}

fn prefix(address: IpAddr, length: u64) -> String {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - length as u32).unwrap_or(0);
            format!("{}/{length}", Ipv4Addr::from(u32::from(a) & mask))
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - length as u32).unwrap_or(0);
            format!("{}/{length}", Ipv6Addr::from(u128::from(a) & mask))
        }
    }
}

/// Runs `kernel.py` with this task.
fn kernel(task: &Value) -> Value {
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "timeout", "60"])
        .args(["/usr/bin/python3", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`unshare` (package util-linux)");
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).ok();
    let done = child.wait_with_output().unwrap();
    assert!(
        done.status.success(),
        "this test makes network namespaces, which needs root, and python3-scapy and iproute2: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The payload's number, in the packet itself or in what an ICMP error quotes.
fn number(frame: &[u8]) -> Option<usize> {
    let at = frame.windows(4).position(|word| word == b"WEIR")?;
    Some(u32::from_be_bytes(*frame.get(at + 4..)?.first_chunk()?) as usize)
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What may differ in packets that a router makes by itself: IPv4's identification, and so the
/// header checksum; nothing of what it forwards.
fn comparable(mut frame: Vec<u8>, forwarded: bool) -> Vec<u8> {
    if !forwarded && frame[12..14] == [8, 0] {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

#[test]
fn as_linux_does() {
    let mut random = Random(7);
    let mac = |n: usize| format!("02:00:00:00:{:02x}:{:02x}", n >> 8, n & 0xff);
    let neighbour = |ip: String, n: usize| json!({"ip": ip, "mac": mac(n)});
    let side = |own: usize, side: usize, mtu: u32| {
        let many = (10..18).flat_map(|n| {
            [
                neighbour(format!("10.{side}.0.{n}"), side * 256 + n),
                neighbour(format!("2001:db8:{side}::{n}"), side * 256 + n),
            ]
        });
        // The host on the left, which gets the errors.
        let host = [
            neighbour(format!("10.{side}.0.9"), 0xa01),
            neighbour(format!("2001:db8:{side}::9"), 0xa01),
        ];
        json!({"mac": mac(own), "mtu": mtu, "neighbours": many.chain(host).collect::<Vec<_>>(),
               "addresses": [format!("10.{side}.0.1/24"), format!("2001:db8:{side}::1/64")]})
    };
    let mut routes: BTreeMap<String, String> = BTreeMap::new();
    let (mut lookups, mut bases) = (Vec::new(), Vec::new());
    for _ in 0..PREFIXES {
        let (side, host) = (1 + random.below(2), 10 + random.below(8));
        let (a4, a6) = (v4(&mut random), v6(&mut random));
        bases.push((a4, a6));
        let length = 6 + random.below(27);
        routes.insert(prefix(Ipv4Addr::from(a4).into(), length), format!("10.{side}.0.{host}"));
        let length = 36 + random.below(93);
        routes
            .insert(prefix(Ipv6Addr::from(a6).into(), length), format!("2001:db8:{side}::{host}"));
    }
    for n in 0..LOOKUPS {
        let (near4, near6) = bases[random.below(bases.len() as u64) as usize];
        let (bit4, bit6) = (random.below(24), random.below(64));
        let near = n % 2 == 0;
        let a4 = if near { near4 ^ 1 << bit4 } else { v4(&mut random) };
        let a6 = if near { near6 ^ 1 << bit6 } else { v6(&mut random) };
        // Some lie outside of everything.
        let outside = u32::from(n % 8 == 7);
        lookups.push(Ipv4Addr::from(a4 ^ outside << 30).to_string());
        lookups.push(Ipv6Addr::from(a6 ^ u128::from(outside) << 110).to_string());
    }
    // Where the hand-made packets come from, and where they go.
    routes.insert("10.3.0.0/16".into(), "10.1.0.9".into());
    routes.insert("198.51.100.0/24".into(), "10.2.0.10".into());
    routes.insert("2001:db8:ffff::/48".into(), "2001:db8:2::10".into());
    let mut task = json!({
        "ports": {"a": side(0x1000, 1, 4000), "b": side(0x2000, 2, 1500)},
        "lookups": lookups,
        "nowhere": ["10.1.0.9", "2001:db8:1::9"],
        "reach": ["198.51.100.7", "2001:db8:ffff::7"],
        "unreachable": ["203.0.113.7", "2001:dead::7"]});
    task["routes"] = routes.iter().map(|route| json!(route)).collect();
    let answer = kernel(&task);

    let mut config = json!({"icmp-errors-per-second": 1_000_000, "icmp-errors-per-source": 1_000_000, "addresses": [], "neighbours": [], "routes": []});
    let list = |config: &mut Value, key: &str, value: Value| {
        config[key].as_array_mut().unwrap().push(value);
    };
    let mut ports = BTreeMap::new();
    for (port, side) in task["ports"].as_object().unwrap() {
        for address in side["addresses"].as_array().unwrap() {
            let ip = address.as_str().unwrap().split_once('/').unwrap().0;
            list(&mut config, "addresses", json!({"ip": ip, "mac": side["mac"], "port": port}));
        }
        for neighbour in side["neighbours"].as_array().unwrap() {
            ports.insert(
                neighbour["ip"].as_str().unwrap().to_owned(),
                (port.clone(), neighbour["mac"].clone()),
            );
            let (ip, mac) = (&neighbour["ip"], &neighbour["mac"]);
            list(&mut config, "neighbours", json!({"ip": ip, "mac": mac, "port": port}));
        }
    }
    for (prefix, via) in &routes {
        let mtu = task["ports"][&ports[via].0]["mtu"].clone();
        list(&mut config, "routes", json!({"prefix": prefix, "via": via, "mtu": mtu}));
    }
    let mut router =
        Harness::<Router>::with(Options { rooms: 64, ..Options::default() }, &config).unwrap();

    // Lookups: whom it would send to, told by the MAC; hosts may be on both sides.
    let mut routed = 0;
    for (address, via) in lookups.iter().zip(answer["lookups"].as_array().unwrap()) {
        let mut frame = vec![2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0, 0xa, 1];
        match address.parse().unwrap() {
            IpAddr::V4(to) => {
                frame.extend_from_slice(&[
                    8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 1, 0, 9,
                ]);
                frame.extend_from_slice(&to.octets());
                let sum = weir_sdk::checksum::internet(&frame[14..]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(to) => {
                frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64]);
                frame.extend_from_slice(&"2001:db8:1::9".parse::<Ipv6Addr>().unwrap().octets());
                frame.extend_from_slice(&to.octets());
            }
        }
        let out = router.run(Frame::new(frame));
        router.sent();
        let Some(via) = via.as_str() else {
            assert_eq!(out.verdict, Verdict::Drop(reason::NO_ROUTE), "{address}");
            continue;
        };
        let (port, mac) = &ports[via];
        let port = u16::from(port == "b");
        assert_eq!(out.verdict, Verdict::Forward(port), "{address} via {via}");
        let text = out.bytes[..6].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
        assert_eq!(&text, mac.as_str().unwrap(), "{address} via {via}");
        routed += 1;
    }
    assert!(
        (500..lookups.len() - 100).contains(&routed),
        "{routed} of {} addresses have a route",
        lookups.len()
    );

    // Packets: what comes out, by number.
    let frames = answer["frames"].as_array().unwrap();
    let mut theirs: BTreeMap<usize, Vec<(u16, Vec<u8>)>> = BTreeMap::new();
    for out in answer["out"].as_array().unwrap() {
        let bytes = unhex(&out[1]);
        // Linux has no switch for IPv6 redirects, which we do not send.
        let redirect = bytes[12..14] == [0x86, 0xdd] && bytes[20] == 58 && bytes[54] == 137;
        if let Some(n) = number(&bytes).filter(|_| !redirect) {
            theirs.entry(n).or_default().push((u16::from(out[0] == "b"), bytes));
        }
    }
    let mut kinds: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (n, named) in frames.iter().enumerate() {
        let (name, frame) = (named[0].as_str().unwrap(), unhex(&named[1]));
        let mut ours = Vec::new();
        router.advance(1_000_000);
        let out = router.run(Frame::new(frame.clone()));
        match out.verdict {
            Verdict::Forward(port) => ours.push((port, comparable(out.bytes, true))),
            Verdict::Reply => ours.push((0, comparable(out.bytes, false))),
            _ => {}
        }
        let forwarded = !ours.is_empty();
        for sent in router.sent() {
            assert_eq!(sent.verdict, Verdict::Reply, "{name}");
            ours.push((0, comparable(sent.bytes, false)));
        }
        let expected: Vec<_> = theirs
            .remove(&n)
            .unwrap_or_default()
            .into_iter()
            .map(|(port, bytes)| (port, comparable(bytes, forwarded && !name.starts_with("own"))))
            .collect();
        assert_eq!(ours, expected, "{name}, frame {n}: {frame:02x?}, {:?}", out.verdict);
        let kind = kinds.entry(name).or_default();
        kind[0] += 1;
        kind[1] += ours.len();
    }
    assert!(theirs.is_empty(), "{theirs:?}");
    println!("{routed} of {} lookups have a route; packets in and out: {kinds:?}", lookups.len());
    for silent in [
        "error-about-error",
        "wrong-checksum",
        "broadcast",
        "martian-source",
        "expired-later-fragment",
    ] {
        assert_eq!(kinds[silent][1], 0, "{silent}");
    }
    for told in
        ["expired", "unreachable", "too-big", "expired6", "unreachable6", "too-big6", "own-ping"]
    {
        assert_eq!(kinds[told][0], kinds[told][1], "{told}");
    }
}
