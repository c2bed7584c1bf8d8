"""A stateless firewall: the function that every language's SDK has as an example.

What it does is specified in guest-sdk/packet-filter/README.md.
"""

from dataclasses import dataclass, field

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
        # Those that may match packets with addresses of so many bytes.
        self.rules = {size: [rule for rule in rules if rule.size in (0, size)] for size in (4, 16)}

    def process(self, packet: Packet) -> int:
        try:
            headers = parse(packet.data, packet.length)
        except Malformed:
            return DENY
        if headers is None:
            return NEXT
        protocol, sport, dport = headers.protocol, headers.sport, headers.dport
        src, dst = int.from_bytes(headers.src), int.from_bytes(headers.dst)
        for rule in self.rules[len(headers.src)]:
            if (
                (rule.protocol is None or rule.protocol == protocol)
                and (rule.dport is None or dport is not None and dport in rule.dport)
                and (rule.sport is None or sport is not None and sport in rule.sport)
                and src & rule.src_mask == rule.src
                and dst & rule.dst_mask == rule.dst
            ):
                return NEXT if rule.allow else DENY
        return self.default


PacketBurst = export(PacketFilter)
