"""A packet of a burst."""

from struct import Struct
from sys import getrefcount

from .parse import Headers, parse

# A packet's row in a burst, wholly: offset, bytes given, length; port, flags and hash.
ROW = Struct("<IIIHHI")
# Of a frame without tags, with an IPv4 header without options: the type's first byte, its second one with version and header length; total
# length, fragment, protocol, addresses, ports.
_plain = Struct(">12xBHxHxxHxBxx8sHH").unpack_from
# Bytes of such headers with TCP and UDP.
_TCP_END = 54
_UDP_END = 42


def _no_headers() -> Headers:
    """To be filled with those of a plain frame."""
    return Headers(14, 34, 0, b"", 0, None, None, False)


class Packet:
    """A view of one packet: its first bytes, as many as the function's `head_bytes` says, and what the host knows of it."""

    __slots__ = ("length", "now", "wall", "_burst", "_row", "_bytes", "_at", "_given", "_replaced", "_headers")

    def __init__(self, burst: bytes, now: int, wall: int = 0):
        self.length = 0
        """Bytes of the whole packet."""
        self.now = now
        """The burst's time in nanoseconds, monotonic."""
        self.wall = wall
        """The same moment in nanoseconds since 1970, or 0 if the host does not know."""
        self._burst = burst
        self._row = 0
        """Where its row lies in `_burst`."""
        self._bytes = burst
        self._at = 0
        self._given = 0
        self._replaced: int | None = None
        """How many of its first bytes are replaced by `data`; None if it is unchanged."""
        self._headers = _no_headers()

    @classmethod
    def of(cls, data: bytes, port: int = 0, flags: int = 0, hash: int = 0, now: int = 0, wall: int = 0) -> "Packet":
        """A packet to try a function with."""
        packet = cls(ROW.pack(ROW.size, len(data), len(data), port, flags, hash) + data, now, wall)
        packet._at, packet._given, packet.length = ROW.size, len(data), len(data)
        return packet

    @property
    def data(self) -> bytes:
        """Its first bytes. They are a copy: `write` and `replace` change the packet."""
        return self._bytes[self._at : self._at + self._given]

    @property
    def port(self) -> int:
        """Number of the port it came in by, an index of `Setup.ports`."""
        return ROW.unpack_from(self._burst, self._row)[3]

    @property
    def flags(self) -> int:
        """Bit 0: it travels in the chain's reverse direction; bit 1: a function made it."""
        return ROW.unpack_from(self._burst, self._row)[4]

    @property
    def hash(self) -> int:
        """Symmetric flow hash of the packet as it arrived, or 0 when the host did not need one."""
        return ROW.unpack_from(self._burst, self._row)[5]

    @property
    def reverse(self) -> bool:
        """Whether it travels in the chain's reverse direction."""
        return self.flags & 1 != 0

    def headers(self) -> Headers | None:
        """Its headers, as `parse` finds them: None if it is not IP. Raises Malformed."""
        given = self._given
        # Most packets are like this, and one call of `struct` reads all of it; small numbers Python has at hand. 6 is TCP, 17 UDP.
        if given >= _TCP_END:
            kind, version, total, word, protocol, addresses, sport, dport = _plain(self._bytes, self._at)
            if kind == 8 and version == 0x45 and (not word or word == 0x4000):
                end = 14 + total
                if _UDP_END <= end <= self.length and (protocol == 17 or protocol == 6 and end >= _TCP_END):
                    headers = self._headers
                    # Those of the packet before, unless the function has kept them.
                    if getrefcount(headers) != _UNKEPT:
                        headers = self._headers = _no_headers()
                    headers.end = end
                    headers.addresses = addresses
                    headers.protocol = protocol
                    headers.sport = sport
                    headers.dport = dport
                    return headers
        return parse(self.data, self.length)

    def write(self, offset: int, new: bytes) -> None:
        """Puts these bytes in the place of as many from `offset` on, which must lie in `data`."""
        data = self.data
        end = offset + len(new)
        if offset < 0 or end > len(data):
            raise ValueError(f"bytes {offset} to {end} do not lie within the {len(data)} that were given")
        self._change(data[:offset] + bytes(new) + data[end:])

    def replace(self, count: int, new: bytes) -> None:
        """Puts these bytes, more or fewer, in the place of the packet's first `count`, which must lie in `data`."""
        data = self.data
        if not 0 <= count <= len(data):
            raise ValueError(f"{count} bytes cannot be replaced: {len(data)} were given")
        self._change(bytes(new) + data[count:])

    def _change(self, data: bytes) -> None:
        if self._replaced is None:
            self._replaced = self._given
        self.length += len(data) - self._given
        self._bytes, self._at, self._given = data, 0, len(data)


def _unkept() -> int:
    """What `getrefcount` says in `Packet.headers` of headers that nobody has but their packet."""
    packet = Packet(b"", 0)
    headers = packet._headers
    return getrefcount(headers)


_UNKEPT = _unkept()
