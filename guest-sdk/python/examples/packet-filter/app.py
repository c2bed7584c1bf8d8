"""A stateless firewall: the function that every language's SDK has as an example.

What it does is specified in guest-sdk/packet-filter/README.md.
"""

from dataclasses import dataclass, field

from compiled import compiled
from rules import Rule, Written, allows
from weir_sdk import NEXT, ConfigError, Function, Malformed, Packet, Setup, drop, export

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
        # Of those that may match packets whose addresses have so many bytes.
        self.decide = {2 * size: compiled([r for r in rules if r.size in (0, size)], DENY, self.default) for size in (4, 16)}

    def process(self, packet: Packet) -> int:
        try:
            headers = packet.headers()
        except Malformed:
            return DENY
        if headers is None:
            return NEXT
        return self.decide[len(headers.addresses)](headers)


PacketBurst = export(PacketFilter)
