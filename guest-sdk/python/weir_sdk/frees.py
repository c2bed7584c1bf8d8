"""Makes a component of componentize-py 0.25.1 free the bytes that it hands over: `python3 -m weir_sdk.frees component.wasm`.

componentize-py copies `bytes` that leave Python (a burst's verdicts, a changed packet's bytes, the packet of `send_copy`) to memory of their own
and never frees it; neither does it free lists without items. So an instance's memory grew until it was used up. What it makes of the WIT is a
small module in the component, whose functions ask the interpreter for a list by `wit_dylib_pop_list`, and know how to have memory freed when the
call has ended: they do so for all other lists. Here, they come to do it for bytes.
"""

import sys

POP, FREE, ALLOCATE = "wit_dylib_pop_list", "wit_dylib_dealloc_bytes", "cabi_realloc"
_IMPORTS, _FUNCTIONS, _CODE, _CORE_MODULE = 2, 3, 10, 1
# Instructions with one number behind them, and with two; by their first byte.
_ONE = frozenset([*range(0x02, 0x05), 0x0C, 0x0D, 0x10, *range(0x20, 0x25), 0x3F, 0x40, 0x41, 0x42])
_TWO = frozenset([0x11, *range(0x28, 0x3F)])
_NONE = frozenset([0x00, 0x01, 0x05, 0x0B, 0x0F, 0x1A, 0x1B, *range(0x45, 0xC5)])


class Unknown(Exception):
    """The component is not as componentize-py 0.25.1 makes them."""


def freeing(component: bytes) -> bytes:
    """The component with the change, which is made once only. Raises Unknown."""
    if component[:8] != b"\0asm\x0d\0\1\0":
        raise Unknown("it is no component")
    parts, found = [component[:8]], 0
    for kind, body in _sections(component):
        if kind == _CORE_MODULE and (module := _module(body)):
            body, found = module, found + 1
        parts.append(_section(kind, body))
    if found != 1:
        raise Unknown(f"{found} of its modules hand lists over by `{POP}`, expected is one")
    return b"".join(parts)


def _module(module: bytes) -> bytes | None:
    """The module, if it is the one that asks for lists."""
    sections = _sections(module)
    functions, imported = _imported(next((body for kind, body in sections if kind == _IMPORTS), b"\0"))
    if POP not in imported:
        return None
    if len({kind for kind, _ in sections} & {_FUNCTIONS, _CODE}) != 2 or not {FREE, ALLOCATE} <= imported.keys():
        raise Unknown(f"its module with `{POP}` has not what is needed beside")
    declared, _ = _number(next(body for kind, body in sections if kind == _FUNCTIONS), 0)
    new = functions + declared
    (pop, pop_type), (allocate, allocate_type), (free, _) = imported[POP], imported[ALLOCATE], imported[FREE]
    # Parameters: the call, the list's type, where to put the address, which is 0 for all but bytes. Result: the length, in local 3.
    popping = (
        b"\1\1\x7f\x20\0\x20\1\x20\2\x10" + _leb(pop) + b"\x21\3\x20\2\x28\2\0\x04\x40"
        # The call, the address, the length, alignment 1; 1: when the call has ended.
        b"\x20\0\x20\2\x28\2\0\x20\3\x41\1\x41\1\x10" + _leb(free) + b"\x0b\x20\3\x0b"
    )
    # Parameters: none, none, alignment, size. Nothing is taken for no bytes: it is not given back either.
    allocating = b"\0\x20\3\x45\x04\x7f\x20\2\x05\x20\0\x20\1\x20\2\x20\3\x10" + _leb(allocate) + b"\x0b\x0b"
    types, bodies = _leb(pop_type) + _leb(allocate_type), b"".join(_leb(len(each)) + each for each in (popping, allocating))
    if any(kind == _CODE and body.endswith(bodies) for kind, body in sections):
        return module
    parts = [module[:8]]
    for kind, body in sections:
        if kind == _FUNCTIONS:
            _, at = _number(body, 0)
            body = _leb(declared + 2) + body[at:] + types
        elif kind == _CODE:
            body = _leb(declared + 2) + b"".join([*_calling(body, {pop: new, allocate: new + 1}), bodies])
        parts.append(_section(kind, body))
    return b"".join(parts)


def _imported(body: bytes) -> tuple[int, dict[str, tuple[int, int]]]:
    """How many functions are imported; number and type of those from `env`."""
    functions, found = 0, {}
    count, at = _number(body, 0)
    for _ in range(count):
        module, at = _name(body, at)
        name, at = _name(body, at)
        kind, at = body[at], at + 1
        if kind == 0:
            number, at = _number(body, at)
            if module == "env":
                found[name] = (functions, number)
            functions += 1
            continue
        if kind == 3:
            at += 2
            continue
        # A memory, or a table, whose items have a type: both have limits.
        at += kind == 1
        flags, at = body[at], at + 1
        for _ in range(1 + (flags & 1)):
            _, at = _number(body, at)
    return functions, found


def _calling(code: bytes, instead: dict[int, int]):
    """The bodies of all functions, which call others instead."""
    count, at = _number(code, 0)
    for _ in range(count):
        size, at = _number(code, at)
        body = _body(code[at : at + size], instead)
        yield _leb(len(body)) + body
        at += size


def _body(body: bytes, instead: dict[int, int]) -> bytes:
    groups, at = _number(body, 0)
    for _ in range(groups):
        _, at = _number(body, at)
        at += 1
    parts = [body[:at]]
    while at < len(body):
        start, instruction = at, body[at]
        at += 1
        if instruction in _ONE:
            operand, at = _number(body, at)
            if instruction == 0x10 and operand in instead:
                parts.append(b"\x10" + _leb(instead[operand]))
                continue
        elif instruction in _TWO:
            _, at = _number(body, at)
            _, at = _number(body, at)
        elif instruction == 0x0E:
            targets, at = _number(body, at)
            for _ in range(targets + 1):
                _, at = _number(body, at)
        elif instruction in (0x43, 0x44):
            at += 4 if instruction == 0x43 else 8
        elif instruction not in _NONE:
            raise Unknown(f"its module with `{POP}` has an instruction that is not known: {instruction:#04x}")
        parts.append(body[start:at])
    return b"".join(parts)


def _sections(binary: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 8
    while at < len(binary):
        kind = binary[at]
        size, at = _number(binary, at + 1)
        found.append((kind, binary[at : at + size]))
        at += size
    return found


def _section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _leb(len(body)) + body


def _name(binary: bytes, at: int) -> tuple[str, int]:
    size, at = _number(binary, at)
    return binary[at : at + size].decode(), at + size


def _number(binary: bytes, at: int) -> tuple[int, int]:
    """A number in LEB128 and where it ends; of a signed one only the end is right."""
    number = shift = 0
    while True:
        byte = binary[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


def _leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def main() -> None:
    """Changes the file that is named."""
    path = sys.argv[1]
    with open(path, "rb") as file:
        component = file.read()
    try:
        component = freeing(component)
    except (Unknown, IndexError) as error:
        sys.exit(f"{path}: it is not as componentize-py 0.25.1 makes components: {error}")
    with open(path, "wb") as file:
        file.write(component)


if __name__ == "__main__":
    main()
