"""Finding keys that stand twice in one JSON object, which parsers silently drop."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from dynpartition.errors import FileFormatError


def refuse_repeats(text: str) -> None:
    """Raise FileFormatError for the first object of valid JSON `text` that has a key twice."""
    found: list[tuple[str, dict[str, Any]]] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            found.append((max(counts, key=counts.__getitem__), result))
        return result

    # Numbers are not converted: only their place matters, and huge ones cost time.
    root = json.loads(text, object_pairs_hook=collect, parse_int=len, parse_float=len)
    if found:
        key, holder = found[0]
        path = _path_to(holder, root, "$") or "$"
        raise FileFormatError(f"key {key!r} stands twice; keep one of them – at `{path}`")


def _path_to(target: object, value: object, path: str) -> str | None:
    if value is target:
        return path
    children: list[tuple[str, object]] = []
    if isinstance(value, dict):
        children = [(_key_step(key), child) for key, child in value.items()]
    elif isinstance(value, list):
        children = [(f"[{index}]", child) for index, child in enumerate(value)]
    results = (_path_to(target, child, path + step) for step, child in children)
    return next((result for result in results if result is not None), None)


def _key_step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f'["{key}"]'
