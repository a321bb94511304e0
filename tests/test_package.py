"""The package as users get it: what the wheel holds, what imports what, what the README says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "core": "dynpartition",
    "models": "dynpartition/models",
    "sim": "dynpartition/sim",
    "hardware": "dynpartition/hardware",
    "agent": "dynpartition/agent",
    "calibration": "dynpartition/calibration",
    "interop": "dynpartition/interop",
    "serving": "dynpartition/serving",
}


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines()]


def test_the_wheel_holds_exactly_the_tracked_sources(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "wheel"
    tracked = [path for path in tracked_files() if (ROOT / path).is_file()]
    for path in tracked:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    names = zipfile.ZipFile(next(out.glob("*.whl"))).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    expected = {
        f"{FOLDERS[path.parts[0]]}/{Path(*path.parts[1:]).as_posix()}"
        for path in tracked
        if path.parts[0] in FOLDERS
    }
    assert packed == expected


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_cannot_be_imported_under_its_bare_name(folder: str) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert f"not {folder}" in tried.stderr


def imports_of(path: Path) -> set[str]:
    found = re.findall(
        r"^\s*(?:from|import) (dynpartition(?:\.\w+)*)", path.read_text(), re.MULTILINE
    )
    return {name.split(".")[1] for name in found if "." in name}


ALLOWED = {
    "core": set(),
    "models": set(),
    "sim": set(),
    "hardware": {"models"},
    "calibration": {"models", "hardware", "sim"},
    "agent": {"models", "sim"},
    "interop": {"models", "sim", "calibration", "agent"},
    "serving": {"models", "sim", "hardware", "agent", "calibration"},
}
"""Folder → folders besides core that it may import."""


@pytest.mark.parametrize("folder", ALLOWED)
def test_the_direction_of_imports(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        if path.is_relative_to(ROOT / "core" / "cli"):
            continue  # the command line may import everything, lazily
        if path == ROOT / "core" / "__init__.py":
            continue  # names that are imported once somebody asks for them
        used = imports_of(path) & (FOLDERS.keys() - {"core"})
        assert used - {folder} <= ALLOWED[folder], path


def test_the_readme_starts_with_the_two_commands() -> None:
    script = ROOT / "tools" / "readme_commands.py"
    lines = [
        subprocess.run([sys.executable, script, n], capture_output=True, text=True).stdout.strip()
        for n in "12"
    ]
    assert lines[0].endswith("dynpartition quickstart")
    assert lines[1].endswith("pytest")
    assert not any("://" in line or "index" in line for line in lines)


def test_no_package_is_missing_from_pyproject() -> None:
    listed = (ROOT / "pyproject.toml").read_text()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            assert f'"{".".join([*package.split("/"), *inner])}"' in listed
