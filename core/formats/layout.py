"""How documents are laid out in files: one task, launch, link or cell per line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from dynpartition.formats.fields import Record
from dynpartition.formats.files import in_file, write_bytes


def render(document: Record) -> bytes:
    """Return `document` as JSON text, the same bytes for the same content."""
    return _render(msgspec.to_builtins(document))


def write_json(path: Path, result: Mapping[str, object]) -> None:
    """Write what a command found out as a JSON object; for results that have no own format."""
    with in_file(path):
        data = _render(msgspec.to_builtins(result))
    write_bytes(path, data)


def _render(fields: Mapping[str, object]) -> bytes:
    body = ",\n".join(f" {_inline(key)}: {_block(value)}" for key, value in fields.items())
    return f"{{\n{body}\n}}\n".encode()


def _block(value: object) -> str:
    if isinstance(value, dict) and value:
        rows = [f"{_inline(key)}: {_inline(entry)}" for key, entry in value.items()]
        return "{\n  " + ",\n  ".join(rows) + "\n }"
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return "[\n  " + ",\n  ".join(_inline(item) for item in value) + "\n ]"
    return _inline(value)


def _inline(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
