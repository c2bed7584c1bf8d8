"""Configurations as dataclasses."""

import dataclasses
import json
import types
import typing


class ConfigError(ValueError):
    """A configuration is wrong; the text is shown to whoever deploys the chain."""


def read(kind, text: str):
    """The configuration of this dataclass (or `dict`) that a JSON text describes. Keys that it has not are refused."""
    value = json.loads(text or "{}")
    return value if kind is dict else _as(kind, value, "")


def _as(kind, value, key):
    if kind is typing.Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [choice for choice in arguments if choice is not type(None)]
        for choice in choices:
            try:
                return _as(choice, value, key)
            except ConfigError as error:
                wrong = error
        names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
        raise wrong if len(choices) == 1 else ConfigError(f"{key}: expected is {names}, found is {value!r}")
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{key}: {value!r} is unknown; allowed are {', '.join(map(repr, arguments))}")
        return value
    if origin is list or kind is list:
        if not isinstance(value, list):
            raise ConfigError(f"{key}: expected is a list, found is {value!r}")
        item = arguments[0] if arguments else typing.Any
        return [_as(item, each, f"{key}[{at}]") for at, each in enumerate(value)]
    if origin is dict or kind is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: expected is a table, found is {value!r}")
        item = arguments[1] if arguments else typing.Any
        return {name: _as(item, each, f"{key}.{name}") for name, each in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind not in (bool, int, float, str, type(None)):
        raise ConfigError(f"{key}: {kind} is no type that a configuration can have")
    # A bool is an int for Python only.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{key}: expected is {kind.__name__}, found is {value!r}")
    return value


def _record(kind, value, key):
    if not isinstance(value, dict):
        raise ConfigError(f"{key or 'the configuration'}: expected is a table, found is {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found = {}
    for name, each in value.items():
        path = f"{key}.{name}" if key else name
        field = name.replace("-", "_")
        if field not in fields:
            raise ConfigError(f"{path}: there is no such key; allowed are {', '.join(fields) or 'none'}")
        found[field] = _as(hints[field], each, path)
    for name, field in fields.items():
        if name not in found and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{key}.{name}: it is missing" if key else f"{name}: it is missing")
    return kind(**found)
