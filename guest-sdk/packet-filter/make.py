"""Writes what the example `packet-filter` is tested with, in every language: a capture, and what has to become of it.

    python3 guest-sdk/packet-filter/make.py guest-sdk/packet-filter

The frames are made with scapy. Which frames a rule matches is computed by tshark: each rule below stands beside a display filter
that means the same, written by hand. Which frames are cut short, or are no IP, is known because they were made so. Nothing of ours
computes anything here.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

from scapy.all import (ARP, ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt,
                       IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw, wrpcap)

random.seed(7)
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = ["10.0.0.1", "10.0.0.2", "10.1.2.3", "172.16.5.5", "192.0.2.1", "192.0.2.129", "198.51.100.7", "203.0.113.9"]
V6 = ["2001:db8::1", "2001:db8::2", "2001:db8:1::7", "2001:db8:8000::7", "fd00::1", "fe80::1"]
PORTS = [22, 23, 53, 80, 443, 999, 1000, 1500, 2000, 2001, 8080, 40000, 65535]


def tags():
    choice = random.randrange(6)
    if choice == 0:
        return Dot1Q(vlan=random.randrange(1, 4095))
    if choice == 1:
        return Dot1AD(vlan=random.randrange(1, 4095)) / Dot1Q(vlan=random.randrange(1, 4095))
    if choice == 2:
        return Dot1Q(vlan=7) / Dot1Q(vlan=8)
    return None


def link():
    tag = tags()
    return ETHER / tag if tag is not None else ETHER.copy()


def ports():
    return {"sport": random.choice(PORTS), "dport": random.choice(PORTS)}


def transport(v6):
    choice = random.randrange(8)
    data = Raw(b"w" * random.randrange(0, 40))
    if choice < 4:
        return TCP(**ports(), flags=random.choice(["S", "A", "PA", "F"])) / data
    if choice < 6:
        return UDP(**ports()) / data
    if choice < 7:
        return (ICMPv6EchoRequest() if v6 else ICMP()) / data
    return Raw(b"w" * 30)


def v4(payload=None, **fields):
    options = random.choice([{}, {}, {}, {"options": [b"\x01\x01\x01\x00"]}])
    header = IP(src=random.choice(V4), dst=random.choice(V4), **options, **fields)
    payload = transport(False) if payload is None else payload
    if isinstance(payload, Raw) and "proto" not in fields:
        header.proto = random.choice([47, 50, 132, 250])
    return link() / header / payload


def v6(extensions=(), payload=None):
    header = IPv6(src=random.choice(V6), dst=random.choice(V6))
    payload = transport(True) if payload is None else payload
    packet = header
    for extension in extensions:
        packet = packet / extension
    if isinstance(payload, Raw):
        packet.lastlayer().nh = random.choice([47, 50, 132, 250])
    return link() / packet / payload


def extension():
    return random.choice([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting])()


# (frame, kind): "ip", "cut" or "other".
frames = [(v4(), "ip") for _ in range(140)]
frames += [(v6(), "ip") for _ in range(70)]
frames += [(v6([extension() for _ in range(random.randrange(1, 9))]), "ip") for _ in range(30)]
# Fragments: first ones have ports, later ones have none.
for _ in range(10):
    segment = random.choice([TCP, UDP])(**ports()) / Raw(b"w" * 40)
    number = 6 if isinstance(segment, TCP) else 17
    frames.append((v4(segment, flags="MF", id=9), "ip"))
    frames.append((v4(Raw(b"\0\x50\0\x50" + b"w" * 20), frag=8, id=9, proto=number), "ip"))
    frames.append((v6([IPv6ExtHdrFragment(m=1, id=9)], segment.copy()), "ip"))
    later = IPv6(src=random.choice(V6), dst=random.choice(V6)) / IPv6ExtHdrFragment(offset=8, id=9, nh=number)
    frames.append((link() / later / Raw(b"\0\x50\0\x50" + b"w" * 20), "ip"))
# Padding behind the packet is not the packet's.
for _ in range(5):
    frames.append((Raw(bytes(v4(UDP(**ports()))) + b"\0" * 18), "ip"))
# What is no IP goes on.
frames += [(ETHER / ARP(pdst="10.0.0.2"), "other"), (Ether(type=0x88CC) / Raw(b"lldp"), "other"), (Raw(b"w" * 13), "other"),
           (ETHER / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / IP(dst="10.0.0.2") / TCP(), "other"),
           (Raw(bytes(ETHER)[:12] + b"\x81\0\0"), "other"), (Raw(b""), "other")]
# IP that is cut short: the frame, the lengths in it, or more than eight extension headers.
plain, plain6 = ETHER / IP(src=V4[0], dst=V4[1]), ETHER / IPv6(src=V6[0], dst=V6[1])
for whole, lengths in [(plain / TCP(dport=443) / Raw(b"w" * 20), [14, 20, 33, 34, 53, 60]),
                       (plain / UDP(dport=443) / Raw(b"w" * 20), [34, 41, 55]),
                       (plain6 / TCP(dport=443) / Raw(b"w" * 20), [14, 53, 54, 73, 90]),
                       (plain6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(dport=443), [58, 62, 70, 80])]:
    frames += [(Raw(bytes(whole)[:length]), "cut") for length in lengths]
frames += [
    (plain / TCP(dport=443), "ip"),
    (Raw(bytes(ETHER / IP(src=V4[0], dst=V4[1], proto=6, len=38) / Raw(bytes(TCP(dport=443))))), "cut"),
    (Raw(bytes(ETHER / IP(src=V4[0], dst=V4[1], proto=17, len=27) / Raw(bytes(UDP(dport=443))))), "cut"),
    (Raw(bytes(ETHER / IP(src=V4[0], dst=V4[1], ihl=4) / UDP(dport=443))), "cut"),
    (Raw(bytes(ETHER / IP(src=V4[0], dst=V4[1], ihl=15, len=40) / UDP(dport=443))), "cut"),
    (Raw(bytes(ETHER / IP(src=V4[0], dst=V4[1], version=6) / UDP(dport=443))), "cut"),
    (Raw(bytes(ETHER / IPv6(src=V6[0], dst=V6[1], version=4) / UDP(dport=443))), "cut"),
    (v6([IPv6ExtHdrDestOpt() for _ in range(9)], UDP(dport=443)), "cut"),
]
random.shuffle(frames)

# Protocols behind extension headers, and of later fragments, which have no header of it.
TCP_IS = "(ip.proto == 6 || (ipv6 && tcp) || ipv6.fraghdr.nxt == 6)"
UDP_IS = "(ip.proto == 17 || (ipv6 && udp) || ipv6.fraghdr.nxt == 17)"
SETS = [
    ("everything goes on", {}, []),
    ("an order of rules", {"default": "deny"}, [
        ({"action": "deny", "proto": "tcp", "dport": "23"}, "tcp.dstport == 23"),
        ({"action": "allow", "src": "10.0.0.0/8", "dst": "192.0.2.0/25"}, "ip.src == 10.0.0.0/8 && ip.dst == 192.0.2.0/25"),
        ({"action": "deny", "dst": "192.0.2.0/24", "proto": "udp"}, "ip.dst == 192.0.2.0/24 && ip.proto == 17"),
        ({"action": "allow", "proto": "tcp", "dport": "1000-2000"}, "tcp.dstport >= 1000 && tcp.dstport <= 2000"),
        ({"action": "allow", "proto": "icmp"}, "ip.proto == 1"),
        ({"action": "allow", "proto": "icmpv6"}, "icmpv6"),
        ({"action": "allow", "src": "2001:db8::/48"}, "ipv6.src == 2001:db8::/48"),
        ({"action": "deny", "dst": "2001:db8:8000::7"}, "ipv6.dst == 2001:db8:8000::7"),
        ({"action": "allow", "sport": 53}, "tcp.srcport == 53 || udp.srcport == 53"),
        ({"action": "allow", "dst": "fc00::/7", "proto": 6}, f"ipv6.dst == fc00::/7 && {TCP_IS}"),
    ]),
    ("ports are for those that have some", {"default": "allow"}, [
        ({"action": "deny", "sport": "0-65535", "dport": "0-65535"}, "tcp.port >= 0 || udp.port >= 0"),
    ]),
    ("protocols without ports", {"default": "allow"}, [
        ({"action": "allow", "proto": "tcp", "dport": "443"}, "tcp.dstport == 443"),
        ({"action": "deny", "proto": "tcp"}, TCP_IS),
        ({"action": "deny", "proto": 17, "src": "0.0.0.0/0"}, "ip.proto == 17"),
        ({"action": "deny", "proto": 250, "dst": "::/0"}, "ipv6.nxt == 250 || ipv6.hopopts.nxt == 250 || ipv6.dstopts.nxt == 250 "
                                                          "|| ipv6.routing.nxt == 250"),
    ]),
    ("single addresses", {"default": "allow"}, [
        ({"action": "deny", "src": "10.0.0.1"}, "ip.src == 10.0.0.1"),
        ({"action": "deny", "dst": "10.0.0.2/32"}, "ip.dst == 10.0.0.2"),
        ({"action": "deny", "src": "fe80::1/128"}, "ipv6.src == fe80::1"),
        ({"action": "deny", "proto": "udp", "sport": "1000-1000"}, "udp.srcport == 1000"),
    ]),
    ("sixty-four rules", {"default": "deny"}, [
        ({"action": "deny", "src": f"100.64.{n}.0/24", "proto": "tcp", "dport": n}, None) for n in range(61)
    ] + [
        ({"action": "allow", "proto": "udp"}, UDP_IS),
        ({"action": "allow", "proto": "tcp", "dport": 443}, "tcp.dstport == 443"),
        ({"action": "allow", "src": "10.0.0.0/15"}, "ip.src == 10.0.0.0/15"),
    ]),
]


def matching(capture, display_filter):
    """Numbers of the frames that tshark shows; fragments are looked at one by one."""
    command = ["tshark", "-r", capture, "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-Y", display_filter,
               "-T", "fields", "-e", "frame.number"]
    return {int(number) for number in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()}


def main():
    directory = Path(sys.argv[1])
    capture = str(directory / "in.pcap")
    for place, (frame, _) in enumerate(frames):
        frame.time = 1_700_000_000 + place / 1000
    wrpcap(capture, [frame for frame, _ in frames], linktype=1)
    kinds = dict(enumerate((kind for _, kind in frames), 1))
    sets = []
    for name, config, rules in SETS:
        verdicts = {number: config.get("default", "allow") == "deny" for number in kinds}
        for rule, display_filter in reversed(rules):
            for number in matching(capture, display_filter) if display_filter else ():
                verdicts[number] = rule["action"] == "deny"
        drop = [number for number, kind in kinds.items() if kind == "cut" or (kind == "ip" and verdicts[number])]
        sets.append({"name": name, "config": {**config, "rules": [rule for rule, _ in rules]}, "drop": drop})
    expected = {"packets": len(frames), "sets": sets}
    text = ",\n".join(json.dumps(one) for one in sets)
    (directory / "expected.json").write_text(f'{{"packets": {len(frames)}, "sets": [\n{text}\n]}}\n')
    json.loads((directory / "expected.json").read_text())
    for one in expected["sets"]:
        print(f"{one['name']}: {len(one['drop'])} of {len(frames)} are dropped")


main()
