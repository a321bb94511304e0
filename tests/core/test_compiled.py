"""Compiled code is read from the disk, but not when what it calls in other modules has changed."""

import os
import subprocess
import sys

CALLEE = """
from dynpartition.compiled import inlined
@inlined
def scaled(x: int) -> int:
    return FACTOR * x
"""
MIDDLE = """
from callee import scaled
from dynpartition.compiled import inlined
@inlined
def shifted(x: int) -> int:
    return scaled(x) + 1
"""
CALLER = """
from middle import shifted
from dynpartition.compiled import compiled, noticing_compilation
@compiled
def outer(x: int) -> int:
    return shifted(x)
"""
PROGRAM = """
from caller import outer
from dynpartition.compiled import noticing_compilation
names = []
with noticing_compilation(names.append):
    print(outer(3), "outer" in names)
"""


def test_an_edit_in_a_module_behind_another_one_makes_the_code_anew(tmp_path):
    (tmp_path / "middle.py").write_text(MIDDLE)
    (tmp_path / "caller.py").write_text(CALLER)
    said = []
    for factor in (2, 2, 5, 5):
        (tmp_path / "callee.py").write_text(CALLEE.replace("FACTOR", str(factor)))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            cwd=tmp_path,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said == [["7", "True"], ["7", "False"], ["16", "True"], ["16", "False"]]
