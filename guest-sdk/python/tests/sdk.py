"""Parts of the SDK and the template that need no host. Run by tests/tests/languages.rs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from struct import pack

sdk = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(sdk), str(sdk / "template/packet")]

import app
from weir_sdk import NEXT, ConfigError, Function, Packet, Setup, config, counter, drop, gauge, host, send_copy, set_timer
from weir_sdk import function as module
from weir_sdk.function import _logging, _packed
from weir_sdk.http import Headers, _sendable


def telnet(options: int) -> bytes:
    """TCP to port 23 over IPv6, behind destination options of so many bytes that are padding."""
    header = bytes([0x60, 0, 0, 0, 0, options + 20, 60 if options else 6, 64]) + bytes(32)
    extension = bytes([6, options // 8 - 1, 1, options - 4]) + bytes(options - 4) if options else b""
    return bytes(12) + b"\x86\xdd" + header + extension + b"\x90\0\0\x17" + bytes(8) + b"\x50" + bytes(7)


def the_template_lets_nothing_through_that_it_has_not_seen():
    function = app.PortBlock()
    function.configure(Setup([], [], 0, 0), app.Config([23]))
    for frame, verdict in ((telnet(0), drop(1)), (telnet(48), drop(1)), (telnet(64), drop(2)), (telnet(0)[:60], drop(2))):
        packet = Packet.of(frame)
        packet._given = min(len(frame), function.head_bytes)
        assert function.process(packet) == verdict, (len(frame), verdict)


def a_burst_says_what_time_it_is():
    class Times(Function):
        def process(self, packet: Packet) -> int:
            self.told = packet.now, packet.wall
            return NEXT

    function = Times()
    # Of the component's own types.
    module.Answer = lambda verdicts, changes: verdicts
    module.answer(function, pack("<IIQQIIIHHI", 1, 0, 7, 1 << 60, 44, 0, 60, 0, 0, 0))
    assert function.told == (7, 1 << 60), function.told
    assert Packet.of(bytes(60), wall=9).wall == 9


def names_that_the_host_would_refuse():
    for make in (counter, gauge):
        for name in ("", "dropped-packets", "Dropped", "ä", "x" * 65):
            assert refuses(make, name), name
    assert counter("x" * 64) is counter("x" * 64)
    for n in range(62):
        (counter if n % 2 else gauge)(f"n_{n}")
    assert refuses(counter, "one_too_many")


def refuses(make, name: str) -> bool:
    try:
        make(name)
    except ValueError:
        return True
    return False


def what_the_host_would_not_take():
    added, value = counter("n_1"), gauge("n_0")
    for wrong in (-1, 0.5, float("nan"), 1 << 64):
        added.add(wrong)
        error = raises(ValueError, host.flush)
        assert f"counter n_1: {wrong!r}" in str(error), error
        host.flush()
    raises(ValueError, value.set, "x")
    for error, at in ((ValueError, -1), (ValueError, 1 << 64), (TypeError, 0.5), (TypeError, None)):
        raises(error, set_timer, at)
    set_timer(0)
    send_copy(bytearray(60), NEXT)
    raises(TypeError, send_copy, 60, NEXT)
    raises(TypeError, send_copy, bytes(60), None)
    assert host.as_text("a\udc80b") == "a?b" and host.as_text(ValueError("é")) == "é"
    assert "SystemExit: 1" in str(raises(RuntimeError, _logging(sys.exit), 1))


def configurations_say_what_is_wrong():
    @dataclass
    class Nested:
        optional: int | None = None
        either: int | str = 0
        pair: tuple[int, int] = (0, 0)

    for given, message in (
        ('{"optional": "s"}', "optional: expected is int, found is 's'"),
        ('{"either": []}', "either: expected is int or str, found is []"),
        ('{"pair": [1, 2]}', "pair: tuple[int, int] is no type that a configuration can have"),
    ):
        assert str(raises(ConfigError, config.read, Nested, given)) == message
    assert config.read(Nested, '{"optional": null, "either": "x"}') == Nested(None, "x")


def raises(kind: type, call, *arguments) -> Exception:
    try:
        call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"{call} takes {arguments}")


def what_is_no_verdict_is_told_and_lets_nothing_through():
    assert _packed([NEXT, drop(1)]) == bytes([0, 0, 0, 0, 1, 1, 0, 0])
    assert _packed([NEXT, NEXT]) == b""
    for returned in (None, "drop", 1.5, -1, 1 << 32, True, False):
        try:
            _packed([NEXT, returned])
        except TypeError as error:
            assert f"process returned {returned!r} for packet 1 of the burst" in str(error), error
        else:
            raise AssertionError(returned)


async def pieces():
    yield b"piece"


def lengths_are_those_of_bodies():
    def sent(headers, body, must_fit=True) -> str | None:
        return Headers(_sendable(headers, body, must_fit)).get("Content-Length")

    body, other = pieces(), pieces()
    headers = Headers([("Content-Length", b"5"), ("x-a", b"b")])
    headers.came_with(body)
    assert sent(headers, body) == "5"
    assert sent(headers, b"longer") == "6" and sent(headers, b"") == "0"
    assert sent(headers, other) is None
    assert ("x-a", b"b") in _sendable(headers, other, True)
    # Who says the length of another body himself, and of one of his own.
    headers.set("content-length", "7")
    assert sent(headers, other) == "7"
    assert sent(Headers({"content-length": "5"}), other) == "5"
    # Responses to HEAD, and requests.
    assert sent(Headers({"content-length": "5"}), b"", False) == "5"
    assert sent(Headers(), b"", False) is None and sent(Headers(), b"abc", False) == "3"


the_template_lets_nothing_through_that_it_has_not_seen()
a_burst_says_what_time_it_is()
names_that_the_host_would_refuse()
what_the_host_would_not_take()
configurations_say_what_is_wrong()
what_is_no_verdict_is_told_and_lets_nothing_through()
lengths_are_those_of_bodies()
