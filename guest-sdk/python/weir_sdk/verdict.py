"""What becomes of a packet (wit/window.md, "Verdict")."""

NEXT = 0
"""Continue with the next function, or leave by the chain's output."""
REPLY = 2
"""Leave by the port it came in by."""
TO_KERNEL = 4
"""To the kernel's stack."""


def drop(reason: int) -> int:
    """Free it; the reason, 0 to 16777215, is counted. Those from 63 on are counted as 63, together."""
    return 1 | reason << 8


def forward(port: int) -> int:
    """Leave by this port (see `Setup.port`)."""
    return 3 | port << 8


def jump(function: int) -> int:
    """Continue with this function, a place in `Setup.functions` behind the function's own."""
    return 5 | function << 8


def clone(port: int) -> int:
    """As NEXT, and a copy of the packet as it is now leaves by this port."""
    return 7 | port << 8


def move(target: int) -> int:
    """The packet and its flow go on elsewhere: 0 is the kernel's stack, n the n-th of the function's targets in the chain."""
    return 8 | target << 8


def final(verdict: int) -> int:
    """The same for all further packets of the flow in this direction; of NEXT, drop, REPLY, forward and TO_KERNEL."""
    return verdict | 0x80


def is_verdict(value) -> bool:
    """Whether this can be a verdict: a number of 32 bits. A bool is an int for Python only."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
