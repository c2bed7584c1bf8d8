#!/usr/bin/env python3
"""Makes the table of main.wat out of a packet-filter's configuration: JSON on standard input, hexadecimal digits on standard output.

A rule is 96 bytes: verdict, protocol, source ports, destination ports (first and last), version, 4 free bytes, and mask and value of source and
destination address. -1 as protocol is any; a packet without ports has -1; version 0 is both. README.md says the rest.
"""

import ipaddress
import json
import struct
import sys

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
VERDICTS = {"allow": 0, "deny": 0x101}


def protocol(value):
    number = PROTOCOLS.get(value, value)
    if not isinstance(number, int) or not 0 <= number <= 255:
        raise ValueError(f"{value!r} is no protocol")
    return number


def ports(value):
    if value is None:
        return -1, 65535
    low, _, high = str(value).partition("-")
    low, high = int(low), int(high or low)
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"{value!r} is no port and no range of ports")
    return low, high


def prefix(value):
    if value is None:
        return 0, bytes(16), bytes(16)
    network = ipaddress.ip_network(value, strict=False)
    return network.version, network.netmask.packed.ljust(16, b"\0"), network.network_address.packed.ljust(16, b"\0")


def rule(written):
    unknown = set(written) - {"action", "proto", "src", "dst", "sport", "dport"}
    if unknown:
        raise ValueError(f"there is no key {unknown.pop()}")
    src_version, src_mask, src = prefix(written.get("src"))
    dst_version, dst_mask, dst = prefix(written.get("dst"))
    versions = {src_version, dst_version} - {0}
    # No packet has addresses of two versions: no packet has version 1.
    version = 1 if len(versions) > 1 else sum(versions)
    proto = protocol(written["proto"]) if "proto" in written else -1
    numbers = VERDICTS[written["action"]], proto, *ports(written.get("sport")), *ports(written.get("dport")), version
    return struct.pack("<7i4x", *numbers) + src_mask + src + dst_mask + dst


def main():
    config = json.load(sys.stdin)
    table = struct.pack("<I", VERDICTS[config.get("default", "allow")]) + b"".join(map(rule, config.get("rules", [])))
    print(table.hex())


main()
