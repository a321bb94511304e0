"""What is known about objects, by their identity: comparing or hashing a graph costs too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")

SIZE = 4096


class ById(Generic[KeyT, ValueT]):
    """Values for the objects asked for last; it keeps these objects, so that ids stay their own."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._entries: dict[int, tuple[KeyT, ValueT]] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: KeyT) -> ValueT | None:
        """Return the value of an object, or None."""
        entry = self._entries.pop(id(key), None)
        if entry is None:
            return None
        self._entries[id(key)] = entry
        return entry[1]

    def put(self, key: KeyT, value: ValueT) -> ValueT:
        """Remember the value of an object, and return it."""
        self._entries.pop(id(key), None)
        self._entries[id(key)] = (key, value)
        if len(self._entries) > self._size:
            del self._entries[next(iter(self._entries))]
        return value

    def get_or_make(self, key: KeyT, make: Callable[[KeyT], ValueT]) -> ValueT:
        """Return the value of an object, made from it where it is not known."""
        found = self.get(key)
        return self.put(key, make(key)) if found is None else found
