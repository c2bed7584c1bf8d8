"""A packet of a burst."""

from struct import Struct

from .parse import TCP, UDP, Headers, parse

# Port, flags and hash.
_record = Struct("<HHI")
# Of a frame without tags, with an IPv4 header without options: what says that it is one, total length, fragment, protocol, addresses, ports.
_plain = Struct(">12x3sxHxxHxBxx8sHH")
_PLAIN_SIZE = _plain.size
_PLAIN = b"\x08\x00\x45"
_plain = _plain.unpack_from


class Packet:
    """A view of one packet: its first bytes, as many as the function's `head_bytes` says, and what the host knows of it."""

    __slots__ = ("length", "now", "_bytes", "_at", "_given", "_told", "_replaced")

    def __init__(self, bytes: bytes, at: int, given: int, length: int, told: bytes, now: int):
        self.length = length
        """Bytes of the whole packet."""
        self.now = now
        """The burst's time in nanoseconds, monotonic."""
        self._bytes = bytes
        self._at = at
        self._given = given
        self._told = told
        self._replaced: int | None = None
        """How many of its first bytes are replaced by `data`; None if it is unchanged."""

    @classmethod
    def of(cls, data: bytes, port: int = 0, flags: int = 0, hash: int = 0, now: int = 0) -> "Packet":
        """A packet to try a function with."""
        return cls(data, 0, len(data), len(data), _record.pack(port, flags, hash), now)

    @property
    def data(self) -> bytes:
        """Its first bytes. They are a copy: `write` and `replace` change the packet."""
        return self._bytes[self._at : self._at + self._given]

    @property
    def port(self) -> int:
        """Number of the port it came in by, an index of `Setup.ports`."""
        return _record.unpack(self._told)[0]

    @property
    def flags(self) -> int:
        return _record.unpack(self._told)[1]

    @property
    def hash(self) -> int:
        """Symmetric flow hash of the packet as it arrived, or 0 when the host did not need one."""
        return _record.unpack(self._told)[2]

    @property
    def reverse(self) -> bool:
        """Whether it travels in the chain's reverse direction."""
        return self.flags & 1 != 0

    def headers(self) -> Headers | None:
        """Its headers, as `parse` finds them: None if it is not IP. Raises Malformed."""
        given = self._given
        # Most packets are like this, and one call of `struct` reads all of it.
        if given >= _PLAIN_SIZE:
            start, total, word, protocol, addresses, sport, dport = _plain(self._bytes, self._at)
            if start == _PLAIN and (protocol == UDP or protocol == TCP) and not word & 0x1FFF:
                end = 14 + total
                least = 54 if protocol == TCP else 42
                if least <= end <= self.length and least <= given:
                    return Headers(14, 34, end, addresses, protocol, sport, dport, False)
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
