"""Where in a document a validation error is: a JSON path with the keys in it, and a remedy."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable
from typing import Any

import msgspec

from dynpartition.errors import did_you_mean

_TOKEN = re.compile(r"\.(\w+)|\[(\d+)\]|\[(\.\.\.)\]")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def explain(error: msgspec.ValidationError, data: bytes, kind: type) -> str:
    """Return `error` as "what – at `$.path`", with the value or the nearest name of a field."""
    what, _, raw_path = str(error).partition(" - at ")
    try:
        path, value, place = _locate(raw_path.strip("`"), msgspec.json.decode(data), kind)
    except (msgspec.DecodeError, LookupError, TypeError):  # then the short path must do
        return f"{what} – at `{raw_path.strip('`') or '$'}`"
    unknown = _UNKNOWN_FIELD.fullmatch(what)
    if unknown:
        what = f"unknown field {unknown[1]!r}; {did_you_mean(unknown[1], _field_names(place))}"
    elif what.startswith("Expected") and ", got " not in what:
        what += f", found {shown(value)}"
    return f"{what} – at `{path}`"


def shown(value: object) -> str:
    """Return a value as JSON, cut where it is long."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"


def _locate(raw_path: str, value: Any, kind: Any) -> tuple[str, Any, Any]:
    """Walk down `raw_path`, in which msgspec shows dictionary keys as `[...]`.

    Return the path with its keys, the value there, and what it should be.
    """
    path = "$"
    for name, index, key in _TOKEN.findall(raw_path):
        if key:
            kind = _of_origin(kind, dict)[1]
            found = _failing_key(value, kind)
            path, value = f'{path}["{found}"]', value[found]
        elif name:
            kind = typing.get_type_hints(_struct(kind), include_extras=True)[name]
            path, value = f"{path}.{name}", value[name]
        else:
            kind = _item(kind, int(index))
            path, value = f"{path}[{index}]", value[int(index)]
    return path, value, kind


def _failing_key(values: dict[str, Any], kind: Any) -> str:
    for key, value in values.items():
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return key
    raise LookupError("no value fails; the key itself does")


def _item(kind: Any, index: int) -> Any:
    arguments = _of_origin(kind, tuple)
    return arguments[0] if arguments[-1] is Ellipsis else arguments[index]


def _of_origin(kind: Any, origin: type) -> tuple[Any, ...]:
    """Return the type arguments of the dict or tuple among the alternatives of `kind`."""
    for option in _options(kind):
        if typing.get_origin(option) is origin:
            return typing.get_args(option)
    raise LookupError(f"{kind} has no {origin}")


def _struct(kind: Any) -> type[msgspec.Struct]:
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    raise LookupError(f"{kind} is no struct")


def _options(kind: Any) -> Iterable[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        return _options(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [option for part in typing.get_args(kind) for option in _options(part)]
    return [kind]


def _field_names(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(_struct(kind))]
