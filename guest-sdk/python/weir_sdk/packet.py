"""A packet of a burst."""


class Packet:
    """A view of one packet: its first bytes, as many as the function's `head_bytes` says, and what the host knows of it."""

    __slots__ = ("data", "length", "port", "flags", "hash", "now", "_changed", "_replaced")

    def __init__(self, data: bytes, length: int, port: int, flags: int, hash: int, now: int):
        self.data = data
        """Its first bytes. They are a copy: `write` and `replace` change the packet."""
        self.length = length
        """Bytes of the whole packet."""
        self.port = port
        """Number of the port it came in by, an index of `Setup.ports`."""
        self.flags = flags
        self.hash = hash
        """Symmetric flow hash of the packet as it arrived, or 0 when the host did not need one."""
        self.now = now
        """The burst's time in nanoseconds, monotonic."""
        self._changed: bytes | None = None
        self._replaced = 0

    @property
    def reverse(self) -> bool:
        """Whether it travels in the chain's reverse direction."""
        return self.flags & 1 != 0

    def write(self, offset: int, new: bytes) -> None:
        """Puts these bytes in the place of as many from `offset` on, which must lie in `data`."""
        end = offset + len(new)
        if offset < 0 or end > len(self.data):
            raise ValueError(f"bytes {offset} to {end} do not lie within the {len(self.data)} that were given")
        self.data = self.data[:offset] + bytes(new) + self.data[end:]
        if self._changed is None:
            self._replaced = len(self.data)
        self._changed = self.data

    def replace(self, count: int, new: bytes) -> None:
        """Puts these bytes, more or fewer, in the place of the packet's first `count`, which must lie in `data`."""
        if not 0 <= count <= len(self.data):
            raise ValueError(f"{count} bytes cannot be replaced: {len(self.data)} were given")
        before = len(self.data)
        self.data = bytes(new) + self.data[count:]
        if self._changed is None:
            self._replaced = before
        self._changed = self.data
        self.length += len(self.data) - before
