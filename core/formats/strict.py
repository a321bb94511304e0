"""Strict decoding: one error line for whatever is wrong with a document."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from dynpartition.errors import FileFormatError
from dynpartition.formats.fields import Record
from dynpartition.formats.places import explain, shown
from dynpartition.formats.repeats import refuse_repeats

RecordT = TypeVar("RecordT", bound=Record)


class _Header(msgspec.Struct):
    format: object = None
    version: object = None


def decode(data: bytes, kind: type[RecordT]) -> RecordT:
    """Return the document in `data`, whose format is the tag of `kind`, version 1.

    Raises FileFormatError saying what is wrong, and where; the caller adds the file's name.
    """
    try:
        return _decode(data, _text(data), kind)
    except RecursionError:
        raise FileFormatError("brackets are nested too deeply; flatten the document") from None


def _decode(data: bytes, text: str, kind: type[RecordT]) -> RecordT:
    try:
        _check_header(msgspec.json.decode(data, type=_Header), kind)
        document = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise FileFormatError(explain(error, data, kind)) from None
    except msgspec.DecodeError as error:
        raise FileFormatError(_malformed(str(error), data)) from None
    refuse_repeats(text)
    return document


def _text(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise FileFormatError("starts with a byte order mark; save it as UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _check_header(header: _Header, kind: type[Record]) -> None:
    expected = str(kind.__struct_config__.tag)
    if header.format != expected:
        found = f"is {shown(header.format)}" if header.format is not None else "is missing"
        noun = expected.removeprefix("dynpartition-")
        raise FileFormatError(
            f'"format" {found}, expected "{expected}"; give a {noun} file here – at `$.format`'
        )
    if header.version != 1:
        found = f"is {shown(header.version)}" if header.version is not None else "is missing"
        raise FileFormatError(
            f'"version" {found}, expected 1; write the file again or use the release that'
            " wrote it – at `$.version`"
        )


def _malformed(message: str, data: bytes) -> str:
    """Say where JSON breaks off: line, column, and the text that stands there."""
    position = re.search(r"\(byte (\d+)\)", message)
    if position is None:
        return "malformed JSON: the text ends too early; the file may have been cut off"
    at = int(position[1])
    reason = message[: position.start()].removeprefix("JSON is malformed: ").strip()
    line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
    near = data[at : at + 12].decode("utf-8", "replace")
    special = re.match("NaN|Infinity", near)
    remedy = f"; JSON has no {special[0]}, use a number" if special else ""
    return f"malformed JSON: {reason} at line {line}, column {column}, near {near!r}{remedy}"
