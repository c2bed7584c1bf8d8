"""What the host offers to a function: log, counters, gauges, time, a timer, packets of its own.

Counters and gauges are kept here and handed over ten times a second. Outside of Weir (in unit tests) log lines go to standard error
and the rest nowhere.
"""

import sys
from operator import index

from .verdict import is_verdict

try:
    from componentize_py_types import Err
    from wit_world.imports import host as _host
    from wit_world.imports.types import Level
except ImportError:
    _host = None

TRACE, DEBUG, INFO, WARN, ERROR = range(5)
"""Levels of log lines."""
_FLUSH_EVERY = 100_000_000


class Refused(Exception):
    """The host refused what the function asked for; nothing happened."""


def log(level: int, message: str) -> None:
    """Writes a line to the function's log (`weir function log`)."""
    if _host:
        _host.log(Level(level), as_text(message))
    else:
        print(as_text(message), file=sys.__stderr__)


def as_text(message: str) -> str:
    """The text with a `?` for each character that is none, such as those of `surrogateescape`: the host takes no others."""
    return str(message).encode("utf-8", "replace").decode()


def log_lines(level: int, text: str) -> None:
    """Writes each line of a text to the function's log."""
    for line in text.splitlines():
        log(level, line)


class LogFile:
    """What stands for standard output and error: lines become lines of the log."""

    def __init__(self, level: int):
        self.level = level
        self.line = ""

    def write(self, text: str) -> int:
        """Logs the lines that end in a text; the rest waits for its end."""
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            log(self.level, line)
        return len(text)

    def flush(self) -> None:
        """Nothing: a line is logged when it ends."""


def now() -> int:
    """Nanoseconds, monotonic, by a call of the host; `Packet.now` is free. In a replay it is the capture's time."""
    return _host.now() if _host else 0


def send_copy(packet: bytes, verdict: int) -> None:
    """Sends a packet with these bytes: for rare packets such as ICMP errors. Raises Refused."""
    packet = bytes(memoryview(packet))
    if not is_verdict(verdict):
        raise TypeError(f"{verdict!r} is no verdict (NEXT, forward(port), ...)")
    if _host:
        try:
            _host.send_copy(packet, verdict)
        except Err as error:
            raise Refused(str(error.value)) from None


class Counter:
    """A counter, shown in /metrics and in reports."""

    __slots__ = ("name", "added")

    def __init__(self, name: str):
        self.name = name
        self.added = 0

    def add(self, delta: int = 1) -> None:
        """Raises it, by a whole number from 0 on."""
        self.added += delta


class Gauge:
    """A gauge, shown in /metrics and in reports."""

    __slots__ = ("name", "value")

    def __init__(self, name: str):
        self.name = name
        self.value: float | None = None

    def set(self, value: float) -> None:
        """Makes this its value."""
        self.value = float(value)


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
_counters: dict[str, Counter] = {}
_gauges: dict[str, Gauge] = {}


def counter(name: str) -> Counter:
    """The counter of this name, 1 to 64 of a-z0-9_; a function may have 64 counters and gauges. Ask in `configure` and keep it. Raises
    ValueError for another name, and for one too many."""
    return _named(_counters, Counter, name)


def gauge(name: str) -> Gauge:
    """The gauge of this name; as `counter`."""
    return _named(_gauges, Gauge, name)


def _named(known: dict, kind: type, name: str):
    """Checks what the host would refuse when it is told, after the first packets, and that is a fault."""
    if name not in known:
        if not 1 <= len(name) <= 64 or set(name) - _LETTERS:
            raise ValueError(f"a counter or gauge cannot be named {name!r}: allowed are 1 to 64 of a-z0-9_")
        if len(_counters) + len(_gauges) == 64:
            raise ValueError(f"there are 64 counters and gauges without {name!r}: no more are allowed")
        known[name] = kind(name)
    return known[name]


class _Timer:
    own = 0
    flush = 0
    armed = 0


def set_timer(at: int) -> None:
    """Asks for one call of `tick` at or soon after this time (of `now`). A later call replaces an earlier one; 0 cancels."""
    at = index(at)
    if not 0 <= at < 1 << 64:
        raise ValueError(f"{at} is no time of 0 to 2^64-1 nanoseconds")
    _Timer.own = at
    _arm()


def _arm() -> None:
    at = min((at for at in (_Timer.own, _Timer.flush) if at), default=0)
    if at != _Timer.armed:
        _Timer.armed = at
        if _host:
            _host.set_timer(at)


def flush() -> None:
    """Hands counters and gauges over."""
    _Timer.flush = 0
    for each in _counters.values():
        if each.added:
            added, each.added = each.added, 0
            # Here, because looking at each number that is added would cost more than adding it.
            if not isinstance(added, int) or not 0 <= added < 1 << 64:
                raise ValueError(f"counter {each.name}: {added!r} was added to it, which is no whole number of 0 to 2^64-1")
            if _host:
                _host.counter_add(each.name, added)
    for each in _gauges.values():
        if each.value is not None:
            if _host:
                _host.gauge_set(each.name, each.value)
            each.value = None


def after_burst(at: int) -> None:
    """Hands counters and gauges over if it is time, and otherwise sees to it that it will be."""
    if not _Timer.flush:
        if not (_counters or _gauges):
            return
        if not any(c.added for c in _counters.values()) and not any(g.value is not None for g in _gauges.values()):
            return
        _Timer.flush = at + _FLUSH_EVERY
    elif at >= _Timer.flush:
        flush()
    else:
        return
    _arm()


def before_tick(at: int) -> bool:
    """Whether the tick is the function's own."""
    _Timer.armed = 0
    due = 0 < _Timer.own <= at
    if due:
        _Timer.own = 0
    return due


def after_tick() -> None:
    """Hands counters and gauges over, and asks for the next tick."""
    flush()
    _arm()
