"""One session on a machine with a GPU, in at most eight minutes.

    python benchmarks/gpu_session.py --out DIR [--trees FILE] [--json FILE] [--seconds 40]

In turn: the `cuda` tests; how fast trees run on the CPU and on the GPU (`execution.py`);
calibrating, training, validating and comparing schedulers (`quickstart`) on the CPU with the GPU,
with three parts of it, and with its memory capped so that most experts of a mixture do not fit.

Writes at most 8 result files into DIR: session.json (date, device, versions, what passed and how
long it took), log.txt, execution.json, profile.json, validation.json, report.html of the whole GPU,
and the tables of the parts and of the mixture. Without a GPU it says so and runs the same on two
CPU devices.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dynpartition.cli.provenance import library_versions
from dynpartition.hardware.devices import cpu_name
from dynpartition.models import build_model

ROOT = Path(__file__).resolve().parent.parent
SECONDS_MAX = 480
"""Of everything; a part that would begin later is left out, and one that is not done is stopped."""
MIXTURE = "moe:width=256,experts=8"
WEIGHTS_SHARE = 0.4
"""How much of the mixture's weights a capped device may hold, beside ROOM_BYTES for the rest."""
ROOM_BYTES = 4 << 20


@dataclass(frozen=True)
class Part:
    """A command, and which files of its run are kept under which names."""

    name: str
    words: tuple[str, ...]
    kept: tuple[tuple[str, str], ...] = ()


def main() -> int:
    asked = parse_arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    has_gpu = torch.cuda.is_available()
    session = describe_machine(has_gpu)
    print(f"GPU: {session['gpu']}", flush=True)
    deadline = time.monotonic() + SECONDS_MAX
    with (asked.out / "log.txt").open("w", encoding="utf-8") as log:
        for part in parts(asked.out, has_gpu, asked.seconds, asked.trees):
            session["parts"][part.name] = done = run_part(part, asked.out, log, deadline)
            print(f"{part.name}: status {done['status']} after {done['seconds']} s", flush=True)
            text = json.dumps(session, indent=1) + "\n"
            for path in filter(None, (asked.out / "session.json", asked.json)):
                path.write_text(text, encoding="utf-8")
    return max(int(done["status"] != 0) for done in session["parts"].values())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trees", type=Path, help="parse trees; else they are generated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each quickstart")
    return parser.parse_args()


def describe_machine(has_gpu: bool) -> dict[str, Any]:
    """Return date, device and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(0) if has_gpu else "none: the CPU part ran instead",
        "cuda": torch.version.cuda if has_gpu else None,
        "cpu": cpu_name(),
        "versions": library_versions(),
        "parts": {},
    }


def parts(out: Path, has_gpu: bool, seconds: float, trees: Path | None) -> Sequence[Part]:
    """Return what runs in turn."""
    given = ("--trees", str(trees.resolve())) if trees else ()
    gpu = ("--gpu", "cuda:0") if has_gpu else ()
    second = "cuda:0" if has_gpu else "cpu:1"
    thirds = "cuda:0/sm16,cuda:0/sm32,cuda:0/sm64" if has_gpu else "cpu:1x0.5,cpu:2x0.25"
    execution = ("benchmarks/execution.py", "--rounds", "5", "--inputs", "75", *gpu, *given)
    whole = tuple((name, name) for name in ("profile.json", "validation.json", "report.html"))
    return (
        Part("tests", ("-m", "pytest", "-q", "-m", "cuda", "tests")),
        Part("execution", (*execution, "--json", str((out / "execution.json").resolve()))),
        quickstart("quickstart", f"cpu:0,{second}", seconds, given, whole),
        quickstart(
            "parts", f"cpu:0,{thirds}", seconds, given, (("evaluation.json", "parts.json"),)
        ),
        quickstart(
            "mixture",
            f"cpu:0,{second}@{mixture_cap_bytes()}B",
            seconds,
            ("--model", MIXTURE),
            (("evaluation.json", "mixture.json"),),
        ),
    )


def quickstart(
    name: str,
    devices: str,
    seconds: float,
    more: Sequence[str],
    kept: tuple[tuple[str, str], ...],
) -> Part:
    words = ("-m", "dynpartition", "quickstart", "--devices", devices, "--seconds", str(seconds))
    return Part(name, (*words, *more), kept)


def mixture_cap_bytes() -> int:
    """Return a cap under which most experts have to come and go."""
    name, _, config = MIXTURE.partition(":")
    sizes = {key: int(value) for key, value in (pair.split("=") for pair in config.split(","))}
    cells = build_model(name, sizes).graph_cells
    return int(sum(cell.param_bytes for cell in cells) * WEIGHTS_SHARE) + ROOM_BYTES


def run_part(part: Part, out: Path, log: Any, deadline: float) -> dict[str, Any]:
    """Run a command, its output going to the log; status 124 when there was no time for it."""
    run = out / f"run-{part.name}"
    words = [*part.words, "--run", str(run.resolve())] if part.kept else list(part.words)
    log.write(f"\n$ python {' '.join(words)}\n")
    log.flush()
    began = time.monotonic()
    status = 124
    if began < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = subprocess.run(
                [sys.executable, *words],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=deadline - began,
            ).returncode
    for name, kept in part.kept:
        if (run / name).is_file():
            shutil.copy(run / name, out / kept)
    shutil.rmtree(run, ignore_errors=True)
    return {"status": status, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
