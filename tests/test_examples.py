"""Every example runs and prints what its .out file says."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
NEEDS = {"sb3_agents": "sb3_contrib", "torchrl_env": "torchrl", "optuna_tuning": "optuna"}
"""Example → library that only an extra of this package brings along."""


def test_every_script_has_its_output_and_the_other_way_round() -> None:
    assert SCRIPTS
    assert [path.stem for path in SCRIPTS] == sorted(path.stem for path in FOLDER.glob("*.out"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_prints_what_its_out_file_says(script: Path, tmp_path: Path) -> None:
    library = NEEDS.get(script.stem)
    if library and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == script.with_suffix(".out").read_text(encoding="utf-8")
    assert not list(tmp_path.iterdir())
