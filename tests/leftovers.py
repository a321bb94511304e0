"""What a test session must not leave behind: processes, shared memory, temporary files."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MARK = "DYNPARTITION_TEST_SESSION"
"""Set for all that a session starts, also for the processes of processes that have ended."""
PROC, NAMED_MEMORY = Path("/proc"), Path("/dev/shm")
OURS = ("dynpartition", "torch_", "psm_", "sem.mp-")
"""How shared memory begins that this package, PyTorch or Python would have named."""
CACHES = ("torchinductor_",)
"""How folders begin that PyTorch makes for its compiler, wherever this is imported."""
PATIENCE_S = 10.0
"""What is about to end may take so long."""


class Leftovers:
    """Marks what a session starts, gives it a temporary folder, and tells what is left of both."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        # Short, since some put sockets there, whose addresses have to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="tests-"))
        self._memory = named_memory()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Let what runs inside the `with` block, and its processes, be found again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MARK, self._mark)
            patch.setenv("TMPDIR", str(self.folder))
            patch.setattr(tempfile, "tempdir", str(self.folder))
            yield

    def processes(self) -> list[str]:
        """Return a line for every process that still runs: what it is and the test it is from."""
        return [_described(entry) for entry in PROC.glob("[0-9]*") if self._is_left(entry)]

    def _is_left(self, entry: Path) -> bool:
        # Zombies have no environment any more. Python's own helper ends with this process.
        try:
            environment = (entry / "environ").read_bytes()
            words = (entry / "cmdline").read_bytes()
        except OSError:
            return False
        is_ours = f"{MARK}={self._mark}".encode() in environment.split(b"\0")
        return is_ours and b"multiprocessing.resource_tracker" not in words

    def memory(self) -> list[str]:
        """Return the names of shared memory that has been made since and has a name still."""
        return sorted(named_memory() - self._memory)

    def mapped_memory(self) -> list[str]:
        """Return this process's mappings of memory that it shares with workers."""
        gc.collect()
        maps = PROC / "self" / "maps"
        lines = maps.read_text().splitlines() if maps.exists() else []
        return [line for line in lines if "memfd:dynpartition" in line]

    def files(self) -> list[str]:
        """Return what lies in the temporary folder, but for caches."""
        entries = (entry for entry in self.folder.iterdir() if not entry.name.startswith(CACHES))
        return sorted(map(str, entries))


def lasting(look: Callable[[], list[str]]) -> list[str]:
    """Return what `look` still finds after a while, at once if it finds nothing."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := look()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found


def named_memory() -> set[str]:
    """Return the names of all shared memory that this package, PyTorch or Python may have made."""
    entries = NAMED_MEMORY.iterdir() if NAMED_MEMORY.is_dir() else ()
    return {entry.name for entry in entries if entry.name.startswith(OURS)}


def _described(entry: Path) -> str:
    try:
        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"process {entry.name}, which has just ended"
    tests = [v.partition("=")[2] for v in environment if v.startswith("PYTEST_CURRENT_TEST=")]
    return f"process {entry.name} of {', '.join(tests) or 'an unknown test'}: {words[:200]}"
