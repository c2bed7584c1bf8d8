"""Making a class a function: the exports of world packet-function-burst."""

import linecache
import random
import sys
import traceback
from dataclasses import dataclass
from struct import Struct, pack
from struct import error as StructError
from sys import getrefcount

from . import config, host
from .packet import ROW, Packet
from .verdict import NEXT, is_verdict

try:
    import wit_world.exports as _exports
    from componentize_py_types import Err
    from wit_world.exports.packet_burst import Answer, Change
except ImportError:
    _exports = None

ALL = 65536
"""`head_bytes` of who wants whole packets."""
_head = Struct("<IIQQ").unpack_from
_HEADER, _ROW = 24, ROW.size


@dataclass
class Setup:
    """What a function is told when it is configured."""

    ports: list[str]
    """Names of the ports; a port's number is its place."""
    functions: list[str]
    """Names of the chain's functions, in order."""
    position: int
    """This function's place in `functions`."""
    seed: int
    """A random number, the same for every instance of this function while the host runs. `random` is seeded with it."""

    def port(self, name: str) -> int:
        """The number of the port of this name."""
        if name not in self.ports:
            raise config.ConfigError(f"there is no port {name!r}; there are {', '.join(self.ports)}")
        return self.ports.index(name)


class Function:
    """What functions derive from."""

    config: type = dict
    """What `[function.config]` of the chain is read into: a dataclass, or dict."""
    head_bytes = ALL
    """How many bytes of each packet are wanted. Fewer cost less. 128 are enough for the headers, but for those of IPv6 with extension headers,
    which a sender can make as long as it likes: `Packet.headers` raises Malformed of what does not lie within."""

    def configure(self, setup: Setup, config) -> None:
        """Prepares the function. An exception's text is shown to whoever deploys the chain, which stays as it was."""

    def process(self, packet: Packet) -> int:
        """Decides about a packet."""
        return NEXT

    def tick(self, now: int) -> None:
        """The time of `set_timer` has come."""


class Snapshot:
    """What functions derive from, too, that hand private state over to their successor (state = "save" in function.toml)."""

    def save(self) -> bytes:
        """The state, in whatever form `restore` of this and later versions reads."""
        raise NotImplementedError

    def restore(self, saved: bytes) -> None:
        """Takes over what the previous instance saved, after `configure`. On an exception the swap is refused."""
        raise NotImplementedError


_function = None


def _explain(error: BaseException) -> str:
    """A traceback. That of module traceback marks places in lines, for which it opens files, and that is a trap here."""
    lines = []
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        lines += [_explain(before), "which led to"]
    lines.append("Traceback (most recent call last):")
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        lines.append(f'  File "{file}", line {line}, in {name}: {linecache.getline(file, line).strip()}')
    lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)


def _logging(call):
    """Logs what a call raises, with its traceback; the fault that it becomes has neither."""

    def logged(*arguments):
        try:
            return call(*arguments)
        except Exception as error:
            host.log_lines(host.ERROR, _explain(error))
            raise
        except BaseException as error:
            host.log_lines(host.ERROR, _explain(error))
            # The interpreter would see to it that the program ends, and there is none.
            raise RuntimeError(f"{type(error).__name__}: {error}") from None

    return logged


def _refusing(call, *arguments):
    """Makes of what a call raises the text of a refusal."""
    try:
        call(*arguments)
    except config.ConfigError as error:
        raise Err(host.as_text(error)) from None
    except BaseException as error:
        host.log_lines(host.ERROR, _explain(error))
        raise Err(host.as_text(f"{type(error).__name__}: {error}")) from None


def _keep_sources() -> None:
    """Reads the sources that tracebacks will show, while the component is being made: there are no files afterwards, and
    asking for one is a trap."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in sys.stdlib_module_names and getattr(module, "__file__", None):
            linecache.getlines(module.__file__)
    linecache.checkcache = lambda *_: None
    linecache.updatecache = lambda *_: []


def export(kind: type[Function]):
    """The class that app.py has to hold as `PacketBurst`."""
    if not _exports:
        return kind
    _keep_sources()

    class PacketBurst(_exports.PacketBurst):
        def configure(self, setup) -> None:
            sys.stdout, sys.stderr = host.LogFile(host.INFO), host.LogFile(host.ERROR)
            random.seed(setup.seed)
            _refusing(self._configure, setup)

        def _configure(self, setup) -> None:
            global _function
            told = Setup(setup.ports, setup.functions, setup.position, setup.seed)
            function = kind()
            function.configure(told, config.read(kind.config, setup.config))
            _function = function
            host.flush()

        def head_bytes(self) -> int:
            return _function.head_bytes

        @_logging
        def process(self, burst: bytes) -> Answer:
            return answer(_function, burst)

        @_logging
        def tick(self, now: int) -> None:
            if host.before_tick(now):
                _function.tick(now)
            host.after_tick()

    return PacketBurst


def answer(function: Function, burst: bytes):
    """What a function answers to a burst (wit/burst.md)."""
    count, _, now, wall = _head(burst)
    process, verdicts, changes = function.process, [], []
    words = memoryview(burst)[_HEADER : _HEADER + count * _ROW].cast("I")
    rows = range(_HEADER, _HEADER + count * _ROW, _ROW)
    # One object is each packet in turn: making one takes longer than reading its headers. It is another one from then on when the function
    # has kept it, which its references tell.
    packet = Packet(burst, now, wall)
    unkept = getrefcount(packet)
    for row, at, given, length in zip(rows, words[0::5].tolist(), words[1::5].tolist(), words[2::5].tolist()):
        packet._row = row
        packet._at = at
        packet._given = given
        packet.length = length
        verdicts.append(process(packet))
        if packet._replaced is not None:
            changes.append(Change(len(verdicts) - 1, packet._replaced, packet.data))
            # What was written to is not the next packet's.
            packet = Packet(burst, now, wall)
        elif getrefcount(packet) != unkept:
            packet = Packet(burst, now, wall)
    host.after_burst(now)
    return Answer(_packed(verdicts), changes)


def _packed(verdicts: list[int]) -> bytes:
    # True would be `drop(0)`, and False NEXT.
    if bool not in map(type, verdicts):
        if verdicts.count(NEXT) == len(verdicts):
            return b""
        try:
            return pack(f"<{len(verdicts)}I", *verdicts)
        except StructError:
            pass
    place = next(place for place, verdict in enumerate(verdicts) if not is_verdict(verdict))
    raise TypeError(
        f"process returned {verdicts[place]!r} for packet {place} of the burst: it has to return a verdict (NEXT, drop(1), forward(port), ...)"
    )


def export_snapshot():
    """The class that app.py has to hold as `Snapshot` if the function has state = "save"."""
    if not _exports:
        return Snapshot

    class Saved(_exports.Snapshot):
        @_logging
        def save(self) -> bytes:
            return _function.save()

        def restore(self, saved: bytes) -> None:
            _refusing(_function.restore, saved)

    return Saved
