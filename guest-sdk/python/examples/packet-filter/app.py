"""A stateless firewall: the function that every language's SDK has as an example.

What it does is specified in guest-sdk/packet-filter/README.md.
"""

from dataclasses import dataclass, field

from compiled import compiled
from rules import Rule, Written, allows
from weir_sdk import NEXT, ConfigError, Function, Malformed, Packet, Setup, drop, export, parse

RULES_MAX = 64
DENY = drop(1)


@dataclass
class Config:
    default: str = "allow"
    rules: list[Written] = field(default_factory=list)


class PacketFilter(Function):
    config = Config

    def configure(self, setup: Setup, config: Config) -> None:
        self.default = NEXT if allows(config.default, "default") else DENY
        if len(config.rules) > RULES_MAX:
            raise ConfigError(f"rules: {len(config.rules)} are too many, {RULES_MAX} at most")
        rules = [Rule(written, f"rules[{at}]") for at, written in enumerate(config.rules)]
        # Of those that may match packets with addresses of so many bytes.
        self.decide = {size: compiled([r for r in rules if r.size in (0, size)], DENY, self.default) for size in (4, 16)}

    def process(self, packet: Packet) -> int:
        try:
            headers = parse(packet.data, packet.length)
        except Malformed:
            return DENY
        if headers is None:
            return NEXT
        sport, dport = headers.sport, headers.dport
        if dport is None:
            sport = dport = -1
        src, dst = headers.src, headers.dst
        return self.decide[len(src)](headers.protocol, sport, dport, int.from_bytes(src), int.from_bytes(dst))


PacketBurst = export(PacketFilter)
