"""What a whole test run relies on: how it is spread, and that it sees what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dynpartition.hardware.shared import SharedBlock
from tests.distribution import DEVICES, LONG, in_order
from tests.leftovers import PROC, Leftovers

ROOT = Path(__file__).resolve().parent.parent
ORPHAN = """
import subprocess, sys
sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
none = subprocess.DEVNULL
print(subprocess.Popen(sleeper, stdout=none, stderr=none).pid)
"""


def test_what_is_placed_by_name_is_there() -> None:
    assert [name for name in (*DEVICES, *LONG) if not (ROOT / name).exists()] == []


def test_devices_come_first_and_all_others_stay_in_order(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    placed = in_order(items)
    assert sorted(map(id, placed)) == sorted(map(id, items))
    rest = [item for item in items if not item.nodeid.startswith((*DEVICES, *LONG))]
    assert placed[len(items) - len(rest) :] == rest


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_the_process_of_a_process_that_has_ended_is_found() -> None:
    leftovers = Leftovers()
    with leftovers.watched():
        assert leftovers.processes() == []
        ran = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, check=True)
        (found,) = leftovers.processes()
        os.kill(int(ran.stdout), 9)
    assert found.startswith(f"process {int(ran.stdout)} of tests/test_session.py::test_the_process")
    leftovers.folder.rmdir()


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_shared_memory_and_files_are_found() -> None:
    leftovers, before = Leftovers(), tempfile.gettempdir()
    known = len(leftovers.mapped_memory())
    with leftovers.watched():
        assert leftovers.files() == []
        block, (_, name) = SharedBlock.create(4096), tempfile.mkstemp()
        assert leftovers.files() == [name]
        assert len(leftovers.mapped_memory()) == known + 1
        block.close()
        del block
        Path(name).unlink()
        assert len(leftovers.mapped_memory()) == known
    assert tempfile.gettempdir() == before
    leftovers.folder.rmdir()
