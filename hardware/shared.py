"""Memory that several processes map and that no name refers to, so nothing can be left behind."""

from __future__ import annotations

import mmap
import os
import tempfile


class SharedBlock:
    """One anonymous shared mapping of `size_bytes`; pages cost memory only once they are used."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self.view = memoryview(mmap.mmap(fd, size_bytes))

    @staticmethod
    def create(size_bytes: int) -> SharedBlock:
        """Return a new block of zeros."""
        fd = _anonymous_file()
        os.ftruncate(fd, size_bytes)
        return SharedBlock(fd, size_bytes)

    @property
    def used_bytes(self) -> int:
        """How much memory the block costs: whole pages that have been written to."""
        return os.fstat(self.fd).st_blocks * 512

    def discard(self) -> None:
        """Give all pages back, where the platform can: what they held is zeros then."""
        if hasattr(mmap, "MADV_REMOVE"):
            mapping = self.view.obj
            assert isinstance(mapping, mmap.mmap)
            mapping.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Let go of the memory; it is unmapped with the last tensor or view on it, not before."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.view = memoryview(b"")


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dynpartition")
    fd, path = tempfile.mkstemp(prefix="dynpartition-")
    os.unlink(path)
    return fd
