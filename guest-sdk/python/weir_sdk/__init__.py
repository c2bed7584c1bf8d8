"""Packet functions of Weir in Python.

A function is a class with `configure`, `process` and perhaps `tick`, handed to `export`:

    from dataclasses import dataclass
    from weir_sdk import NEXT, Function, Packet, Setup, export

    @dataclass
    class Config:
        limit: int = 1500

    class Example(Function):
        config = Config

        def process(self, packet: Packet) -> int:
            return NEXT

    PacketBurst = export(Example)

The module is named app.py; README.md has the rest.
"""

from .config import ConfigError
from .function import Function, Setup, Snapshot, export, export_snapshot
from .host import (
    DEBUG,
    ERROR,
    INFO,
    TRACE,
    WARN,
    Counter,
    Gauge,
    Refused,
    counter,
    gauge,
    log,
    now,
    send_copy,
    set_timer,
)
from .packet import Packet
from .parse import ICMP, ICMPV6, TCP, UDP, Headers, Malformed, parse
from .verdict import NEXT, REPLY, TO_KERNEL, clone, drop, final, forward, jump, move

__all__ = [name for name in dir() if not name.startswith("_")]
