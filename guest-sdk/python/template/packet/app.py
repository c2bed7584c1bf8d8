"""Drops TCP and UDP packets to blocked ports."""

from dataclasses import dataclass

from weir_sdk import NEXT, ConfigError, Function, Malformed, Packet, Setup, counter, drop, export


@dataclass
class Config:
    """`[function.config]` of the chain."""

    blocked: list[int]
    """Destination ports."""


class PortBlock(Function):
    config = Config
    head_bytes = 128

    def configure(self, setup: Setup, config: Config) -> None:
        for port in config.blocked:
            if not 1 <= port <= 65535:
                raise ConfigError(f"blocked: {port} is no port; allowed are 1 to 65535")
        self.blocked = frozenset(config.blocked)
        self.count = counter("blocked")

    def process(self, packet: Packet) -> int:
        # What is neither TCP nor UDP goes on. A port could be hidden in what cannot be read: a tiny first fragment (RFC 1858), headers
        # longer than what was asked for.
        try:
            headers = packet.headers()
        except Malformed:
            return drop(2)
        if headers and headers.dport in self.blocked:
            self.count.add()
            return drop(1)
        return NEXT


PacketBurst = export(PortBlock)
