"""The rules: as they are written, and as they are compared."""

from dataclasses import dataclass
from ipaddress import ip_network

from weir_sdk import ICMP, ICMPV6, TCP, UDP, ConfigError

PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6}


@dataclass
class Written:
    """A rule as it is written."""

    action: str
    proto: str | int | None = None
    src: str | None = None
    dst: str | None = None
    sport: str | int | None = None
    dport: str | int | None = None


class Rule:
    """A rule as it is compared. None means any protocol, and any port."""

    def __init__(self, written: Written, key: str):
        self.allow = allows(written.action, f"{key}.action")
        self.protocol = protocol(written.proto, f"{key}.proto")
        self.sport = ports(written.sport, f"{key}.sport")
        self.dport = ports(written.dport, f"{key}.dport")
        src_size, src = prefix(written.src, f"{key}.src")
        dst_size, dst = prefix(written.dst, f"{key}.dst")
        # Bytes of an address that it may match; 0 for both, -1 for none.
        self.size = -1 if src_size and dst_size and src_size != dst_size else src_size or dst_size
        # Bytes of source and destination, one after the other: which, what of them, and what it has to be.
        self.bytes = src + [(dst_size + place, mask, value) for place, mask, value in dst]


def allows(action: str, key: str) -> bool:
    if action not in ("allow", "deny"):
        raise ConfigError(f"{key}: unknown value `{action}`; allowed are allow, deny")
    return action == "allow"


def protocol(text: str | int | None, key: str) -> int | None:
    if text is None:
        return None
    number = PROTOCOLS.get(text, text)
    if not isinstance(number, int) or not 0 <= number <= 255:
        raise ConfigError(f"{key}: {text!r} is no protocol; allowed are tcp, udp, icmp, icmpv6 and 0 to 255")
    return number


def ports(text: str | int | None, key: str) -> range | None:
    if text is None:
        return None
    low, _, high = str(text).partition("-")
    high = high or low
    if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high) <= 65535):
        raise ConfigError(f"{key}: {text!r} is no port such as 80 and no range such as 1000-2000")
    return range(int(low), int(high) + 1)


def prefix(text: str | None, key: str) -> tuple[int, list[tuple[int, int, int]]]:
    """Bytes of an address, and those that the prefix says something about: which, what of it, and what it has to be."""
    if text is None:
        return 0, []
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is no prefix such as 10.0.0.0/8 or 2001:db8::1") from None
    masked = zip(network.netmask.packed, network.network_address.packed)
    return network.max_prefixlen // 8, [(place, mask, value) for place, (mask, value) in enumerate(masked) if mask]
