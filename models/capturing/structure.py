"""Tensors inside of tuples, lists and dictionaries, and digests of samples."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynpartition.errors import InputError


class Arguments:
    """A sample of a model whose `forward` takes more or other than one argument."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    @staticmethod
    def of(sample: Any) -> Arguments:
        """Return the arguments that a sample stands for: itself alone, unless it says more."""
        return sample if isinstance(sample, Arguments) else Arguments(sample)


def replaced(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return `value` with every tensor in tuples, lists and dictionaries changed."""
    if isinstance(value, Tensor):
        return change(value)
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([replaced(one, change) for one in value])
    if isinstance(value, Mapping):
        return {key: replaced(one, change) for key, one in value.items()}
    if isinstance(value, tuple | list):
        changed = [replaced(one, change) for one in value]
        if hasattr(kind, "_make"):  # a named tuple
            return kind._make(changed)
        if hasattr(kind, "n_sequence_fields"):  # as torch.max returns
            return kind(changed)
        return tuple(changed) if isinstance(value, tuple) else changed
    if isinstance(value, slice):
        return slice(*(replaced(one, change) for one in (value.start, value.stop, value.step)))
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in tuples, lists and dictionaries, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    replaced(value, note)
    return found


def digest_of(sample: Any) -> str:
    """Return a sha256 of a sample's content: tensors, arrays, plain values, objects of these.

    Raises InputError for what has no content of its own to read, such as a generator.
    """
    hasher = hashlib.sha256()
    for piece in _pieces(sample, set()):
        hasher.update(piece)
        hasher.update(b"\0")
    return hasher.hexdigest()


def sample_tensors(sample: Any) -> Iterator[Tensor]:
    """Yield all tensors of a sample, those in objects too."""
    for value in _walk(sample, set()):
        if isinstance(value, Tensor):
            yield value


def _walk(value: Any, above: set[int]) -> Iterator[Any]:
    yield value
    if id(value) in above:
        return
    for part in _parts(value):
        yield from _walk(part, above | {id(value)})


def _parts(value: Any) -> list[Any]:
    """Return what a container or an object consists of; nothing for plain values."""
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    if isinstance(value, Tensor | np.ndarray) or _is_plain(value):
        return []
    return list(_fields(value).values())


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    slots = [s for kind in type(value).__mro__ for s in getattr(kind, "__slots__", ())]
    named = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
    return {**getattr(value, "__dict__", {}), **named}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _pieces(value: Any, above: set[int]) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        yield array.numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif _is_plain(value):
        yield f"{type(value).__name__} {value!r}".encode()
    elif id(value) in above:
        yield b"(again)"
    else:
        yield from _pieces_inside(value, above | {id(value)})


def _pieces_inside(value: Any, above: set[int]) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if isinstance(value, set | frozenset):
        for digest in sorted(digest_of(one) for one in value):
            yield digest.encode()
        return
    if not isinstance(value, Mapping | tuple | list):
        fields = _fields(value)
        if callable(value) or isinstance(value, Iterator) or not fields:
            raise InputError(
                f"a sample holds {type(value).__qualname__}, whose content cannot be read; build"
                " samples of tensors, numbers, strings, containers and objects with such fields"
            )
        value = fields
    parts = (
        [part for pair in value.items() for part in pair] if isinstance(value, Mapping) else value
    )
    yield str(len(parts)).encode()
    for part in parts:
        yield from _pieces(part, above)
