//! Steering rules.

use super::*;

const STEERING: &str = r#"
[[rule]]
name = "voip"               # optional, for people
port = "wan"                # optional: where the packet comes in
src = "10.0.0.0/8"          # prefix or address, IPv4 or IPv6
dst = "192.0.2.0/24"
proto = "tcp"               # or number
sport = "1024-65535"
dport = "443"
vlan = 100
dscp = 46
ethertype = "ipv4"
src-mac = "02:00:00:00:00:01"
dst-mac = "02:00:00:00:00:02"
chain = "inspect"           # exactly one of: chain = NAME | to = "kernel" | to = "drop"
[[rule]]
proto = 47
dst = "2001:db8::1"
to = "kernel"
[[rule]]
dport = 80
to = "drop"
"#;

#[test]
fn the_documented_rules_are_read_and_survive_json_and_toml() {
    let steering = Document::<Steering>::parse("steer.toml", STEERING).unwrap().value;
    let [voip, tunnel, web] = &steering.rules[..] else { panic!("{steering:?}") };
    assert_eq!(voip.src.unwrap().length(), 8);
    assert_eq!((voip.sport.unwrap().first(), voip.sport.unwrap().last()), (1024, 65535));
    assert_eq!(voip.chain.as_ref().unwrap().as_str(), "inspect");
    assert_eq!(tunnel.proto.unwrap().get(), 47);
    assert_eq!((tunnel.to, web.to), (Some(SteerTo::Kernel), Some(SteerTo::Drop)));
    assert_eq!(
        voip.conditions(),
        "port=wan vlan=100 ethertype=ipv4 src-mac=02:00:00:00:00:01 dst-mac=02:00:00:00:00:02 src=10.0.0.0/8 dst=192.0.2.0/24 proto=tcp sport=1024-65535 dport=443 dscp=46"
    );
    assert_eq!((voip.label(0), web.label(2)), ("rule 1 (voip)".to_owned(), "rule 3".to_owned()));
    let json = serde_json::to_string(&steering).unwrap();
    assert_eq!(serde_json::from_str::<Steering>(&json).unwrap(), steering);
    let toml = toml::to_string(&steering).unwrap();
    assert_eq!(Document::<Steering>::parse("again.toml", &toml).unwrap().value, steering);
    assert_eq!(Document::<Steering>::parse("none.toml", "").unwrap().value, Steering::default());
    // IPv4 has no headers to pass over: authentication is a protocol there.
    let authenticated = "[[rule]]\nproto = 51\ndst = \"192.0.2.1\"\nto = \"drop\"\n";
    assert!(Document::<Steering>::parse("ah.toml", authenticated).is_ok());
}

#[test]
fn rules_that_cannot_be_are_shown_where_they_stand() {
    let rule = |keys: &str| {
        let text = format!("[[rule]]\nto = \"drop\"\n[[rule]]\n{keys}\n");
        Document::<Steering>::parse("steer.toml", &text).map(|document| document.value)
    };
    for (keys, key, line, message) in [
        ("dport = \"443\"", "rule[1]", 3, "does not say where packets go"),
        ("chain = \"a\"\nto = \"drop\"", "rule[1].to", 5, "exclude each other"),
        ("to = \"host\"", "rule[1].to", 4, "unknown value `host`"),
        ("to = \"drop\"\nsrc-ip = \"::1\"", "rule[1].src-ip", 5, "unknown key `src-ip`"),
        ("to = \"drop\"\nsrc = \"10.0.0.1/8\"", "rule[1].src", 5, "bits behind its length"),
        ("to = \"drop\"\ndst = \"10.0.0.0/40\"", "rule[1].dst", 5, "ADDRESS/LENGTH"),
        ("to = \"drop\"\ndst = 10", "rule[1].dst", 5, "expected a prefix"),
        ("to = \"drop\"\nproto = 0", "rule[1].proto", 5, "a number from 1 to 255"),
        ("to = \"drop\"\nproto = true", "rule[1].proto", 5, "expected a protocol"),
        ("to = \"drop\"\nsport = \"9-1\"", "rule[1].sport", 5, "numbers from 1 to 65535"),
        ("to = \"drop\"\ndport = 65536", "rule[1].dport", 5, "numbers from 1 to 65535"),
        ("to = \"drop\"\ndport = \"1\"\nproto = \"icmp\"", "rule[1].dport", 5, "have no ports"),
        ("to = \"drop\"\nvlan = 70000", "rule[1].vlan", 5, "70000 is too large"),
        ("to = \"drop\"\nvlan = -1", "rule[1].vlan", 5, "expected a whole number"),
        ("to = \"drop\"\nvlan = 4095", "rule[1].vlan", 5, "no VLAN 4095"),
        ("to = \"drop\"\ndscp = 64", "rule[1].dscp", 5, "no code point 64"),
        ("to = \"drop\"\nethertype = \"ip\"", "rule[1].ethertype", 5, "not an EtherType"),
        (
            "to = \"drop\"\nsrc = \"::1\"\nethertype = \"ipv4\"",
            "rule[1].ethertype",
            6,
            "an address of IPv6",
        ),
        ("to = \"drop\"\nproto = \"icmpv6\"\nsrc = \"10.0.0.0/8\"", "rule[1].proto", 5, "IPv6's"),
        ("to = \"drop\"\nethertype = \"ipv6\"\nproto = \"icmp\"", "rule[1].proto", 6, "IPv4's"),
        ("to = \"drop\"\nproto = 51\ndst = \"::1\"", "rule[1].proto", 5, "an extension header"),
        ("to = \"drop\"\nethertype = \"arp\"\ndscp = 1", "rule[1].ethertype", 5, "have no `dscp`"),
        ("to = \"drop\"\nsrc = \"::1\"\ndst = \"10.0.0.1\"", "rule[1].dst", 6, "`src` is IPv6"),
        ("to = \"drop\"\nsrc-mac = \"2\"", "rule[1].src-mac", 5, "not a MAC address"),
        ("chain = \"No\"", "rule[1].chain", 4, "is not a name"),
    ] {
        let text = rule(keys).unwrap_err().to_string();
        assert!(
            text.contains(message) && text.lines().any(|l| l.ends_with(&format!("= key: {key}"))),
            "{keys}: {text}"
        );
        assert!(text.contains(&format!("steer.toml:{line}:")), "{keys}: {text}");
    }
    rule("to = \"drop\"\nproto = \"udplite\"\ndport = 9\nvlan = 4094\ndscp = 63").unwrap();
}

#[test]
fn more_rules_than_there_can_be_are_refused() {
    let many = |count| {
        Document::<Steering>::parse("steer.toml", &"[[rule]]\nto = \"drop\"\n".repeat(count))
    };
    assert_eq!(many(131_072).unwrap().value.rules.len(), 131_072);
    let error = many(131_073).unwrap_err();
    assert_eq!(error.message, "there are too many rules");
}

#[test]
fn a_steered_chain_has_ports() {
    let text = "name = \"a\"\nsteered = true\n[[function]]\nuse = \"f\"\n";
    let error = Document::<Chain>::parse("c.toml", text).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (2, "steered"));
    let chain = Document::<Chain>::parse("c.toml", &format!("from = \"in\"\n{text}")).unwrap();
    assert!(chain.value.steered);
    let json = serde_json::to_string(&chain.value).unwrap();
    assert_eq!(serde_json::from_str::<Chain>(&json).unwrap(), chain.value);
}
