"""Does what its config says, for tests/tests/language_probes.rs."""

from dataclasses import dataclass

from weir_sdk import NEXT, WARN, Function, Headers, Packet, Setup, Snapshot, counter, drop, export, export_snapshot, log


@dataclass
class Config:
    mode: str


def told(packet: Packet | None, headers: Headers | None) -> tuple:
    return (
        packet and (packet.data, packet.length, packet.port, packet.hash),
        headers and (headers.end, headers.src, headers.dst, headers.protocol, headers.sport, headers.dport),
    )


class Probe(Function, Snapshot):
    config = Config

    def configure(self, setup: Setup, config: Config) -> None:
        self.mode = config.mode
        self.seen = 0
        self.kept = []
        self.packets = counter("packets")
        print("printed", f"by {self.mode}")
        log(WARN, f"ports {' '.join(setup.ports)}, function {setup.functions[setup.position]}")
        if self.mode == "refuse":
            raise ValueError("configured to refuse")

    def throws(self, packet: Packet) -> int:
        return packet.nothing

    def keeps(self, packet: Packet) -> int:
        """Keeps packets, headers, both or none, and looks whether they are still what they were."""
        headers = packet.headers()
        kept = (packet if self.seen & 1 else None, headers if self.seen & 2 else None)
        self.kept.append((kept, told(*kept)))
        assert packet.headers().sport == headers.sport
        assert all(told(*kept) == before for kept, before in self.kept)
        return drop(headers.sport)

    def process(self, packet: Packet) -> int:
        self.seen += 1
        self.packets.add()
        if self.mode == "throw":
            return self.throws(packet)
        if self.mode == "keep":
            return self.keeps(packet)
        if self.mode == "tag":
            packet.replace(12, packet.data[:12] + b"\x81\x00\x00\x07")
            return NEXT
        if self.mode == "strip":
            packet.replace(14, b"")
            return NEXT
        if self.mode == "write":
            packet.write(0, bytes([2] * 6))
            return drop(packet.length)
        return NEXT if packet.headers() is None else drop(9)

    def save(self) -> bytes:
        return str(self.seen).encode()

    def restore(self, saved: bytes) -> None:
        if not saved.isdigit():
            raise ValueError(f"{saved.decode()} is no count")
        self.seen = int(saved)


PacketBurst = export(Probe)
Snapshot = export_snapshot()
