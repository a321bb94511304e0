"""Reading and writing files, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynpartition.errors import DynPartitionError, FileFormatError, OutputError

SIZE_BYTES_MAX = 2**30
"""Larger files are refused before they are read."""

_READ_REMEDY = {
    errno.ENOENT: "no such file; check the path",
    errno.EISDIR: "is a folder; name a file in it",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EACCES: "may not be read; change its permissions",
}
_WRITE_REMEDY = {
    errno.ENOENT: "its folder does not exist; create the folder first",
    errno.EISDIR: "it is a folder; name a file in it",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EACCES: "writing is not allowed there; choose another place",
    errno.EROFS: "that place is read-only; choose another one",
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Put the name of the file before the message of every error raised inside."""
    try:
        yield
    except DynPartitionError as error:
        error.args = (f"{path}: {error}",)
        raise


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises FileFormatError, without the file's name, when it is missing, a folder, empty or larger
    than 1 GiB.
    """
    try:
        with open(path, "rb") as stream:
            known_bytes = os.fstat(stream.fileno()).st_size
            data = b"" if known_bytes > SIZE_BYTES_MAX else stream.read(SIZE_BYTES_MAX + 1)
    except OSError as error:
        raise FileFormatError(_READ_REMEDY.get(error.errno or 0, f"{error.strerror}")) from error
    if max(known_bytes, len(data)) > SIZE_BYTES_MAX:
        raise FileFormatError("is larger than 1 GiB; split it or check that it is the right file")
    if not data:
        raise FileFormatError("is empty; write it again or name another file")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, fsynced, then renamed.

    Raises OutputError naming the file and the remedy, and leaves nothing behind then. A device or
    a pipe (`/dev/stdout`) is written to directly.
    """
    with writing(path):
        if _is_special(path):
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)


def check_writable(path: Path) -> None:
    """Raise the OutputError that `write_bytes` would raise, as far as that shows before writing."""
    with writing(path):
        if not _is_special(path):
            folder = Path(os.path.realpath(path)).parent
            os.scandir(folder).close()
            if not os.access(folder, os.W_OK):
                read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
                code = errno.EROFS if read_only else errno.EACCES
                raise OSError(code, os.strerror(code))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says inside into an OutputError that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        reason = _WRITE_REMEDY.get(error.errno or 0, f"{error.strerror}; choose another place")
        raise OutputError(f"cannot write {path}: {reason}") from error


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return not stat.S_ISREG(mode)


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".dynpartition-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
