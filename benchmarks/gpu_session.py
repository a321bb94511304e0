"""One session on a machine with a GPU: the `cuda` tests and a quickstart on `cpu:0,cuda:0`.

    python benchmarks/gpu_session.py --out DIR [--trees FILE] [--json FILE]

Writes at most 8 result files into DIR: session.json (date, device, versions, what passed),
tests.txt, quickstart.txt, and of the run its profile, validation, evaluation and report. Without a
GPU it says so and runs the same on two CPU devices.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dynpartition.cli.provenance import cpu_name, library_versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("profile.json", "validation.json", "evaluation.json", "report.html", "run.json")
TESTS_SECONDS_MAX, QUICKSTART_SECONDS_MAX = 150, 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trees", type=Path, help="parse trees; else they are generated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0, help="of calibrating and training")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    devices = "cpu:0,cuda:0" if torch.cuda.is_available() else "cpu:0,cpu:1"
    session = describe_machine(devices) | {
        "tests": run_tests(asked.out),
        "quickstart": run_quickstart(asked.out, devices, asked.seconds, asked.trees),
    }
    text = json.dumps(session, indent=1)
    for path in filter(None, (asked.out / "session.json", asked.json)):
        path.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if session["tests"]["status"] == session["quickstart"]["status"] == 0 else 1


def describe_machine(devices: str) -> dict[str, Any]:
    """Return date, device and versions."""
    has_gpu = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(0) if has_gpu else "none: the CPU part ran instead",
        "cuda": torch.version.cuda if has_gpu else None,
        "cpu": cpu_name(),
        "devices": devices,
        "versions": library_versions(),
    }


def run_tests(out: Path) -> dict[str, Any]:
    """Run the tests that need a GPU; without one they skip."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests"]
    return run_logged(command, out / "tests.txt", TESTS_SECONDS_MAX)


def run_quickstart(out: Path, devices: str, seconds: float, trees: Path | None) -> dict[str, Any]:
    """Run a quickstart and keep the results that fit into the eight files."""
    run = out / "run"
    command = [sys.executable, "-m", "dynpartition", "quickstart", "--devices", devices]
    command += ["--seconds", str(seconds), "--run", str(run.resolve())]
    command += ["--trees", str(trees.resolve())] if trees else []
    result = run_logged(command, out / "quickstart.txt", QUICKSTART_SECONDS_MAX)
    for name in RESULTS:
        if (run / name).is_file():
            shutil.copy(run / name, out / name)
    shutil.rmtree(run, ignore_errors=True)
    return result


def run_logged(command: list[str], log: Path, seconds_max: float) -> dict[str, Any]:
    """Run a command, its output going to a file; status 124 when it takes too long."""
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        try:
            status = subprocess.run(
                command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, timeout=seconds_max
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
    seconds = round(time.monotonic() - began, 1)
    return {"command": " ".join(command[1:]), "status": status, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
