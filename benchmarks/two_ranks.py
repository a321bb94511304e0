"""How exact the simulator is about plans across hosts: `calibrate` and `validate` under torchrun.

    python benchmarks/two_ranks.py [--models treelstm treelstm:hidden_dim=512] [--ranks 2]
        [--seconds 25] [--cases 20] [--repeats 16] [--longer 0] [--json FILE]

For each model a new profile is measured on `cpu:0` and the CPU device of every other rank, all on
this machine, and validated on other inputs. Every rank needs two quiet cores; with fewer the
processes that pass on between hosts share the cores of devices. *Repeats within* is the noise
ceiling: an error below it says nothing. What comes out inconclusive counts as not passed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynpartition.cli.provenance import measured_here
from dynpartition.formats import write_json

LEFT_OUT = ("cases", "graphs")
"""Of a validation's figures: one row for each run."""
HEADS = ("Mean error", "Bias", "Worst", "Repeats within", "tau", "Regret", "Conclusive", "Verdict")


def on_ranks(n_ranks: int, words: Sequence[object], folder: Path) -> None:
    """Run a command of dynpartition on so many ranks, or end with what it says."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", str(n_ranks), "--log-dir", str(folder), "-m", "dynpartition"]
    done = subprocess.run(
        [*torchrun, *options, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}:\n{done.stderr}")


def devices_of(n_ranks: int) -> str:
    return ",".join(["cpu:0", *(f"host{rank}/cpu:0" for rank in range(1, n_ranks))])


def judged(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Calibrate and validate one model; return the figures of the validation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile, result = folder / "profile.json", folder / "result.json"
        measure = ["calibrate", "--model", model, "--devices", devices_of(options.ranks)]
        on_ranks(options.ranks, [*measure, "--seconds", options.seconds, "--json", profile], folder)
        compare = ["validate", "--model", model, "--profile", profile, "--json", result]
        compare += ["--cases", options.cases, "--repeats", options.repeats]
        on_ranks(options.ranks, [*compare, "--longer", options.longer], folder)
        found = json.loads(result.read_text())
        links = json.loads(profile.read_text())["links"]
    kept = {key: value for key, value in found.items() if key not in LEFT_OUT}
    return {"model": model, "placements": len(found["cases"]), "links": links, **kept}


def row(found: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    tau = "–" if found["tau"] is None else f"{found['tau']:.3f}"
    shares = [f"{found[key]:.1%}" for key in ("mape", "bias", "worst", "noise")]
    rest = [tau, f"{found['regret']:.2%}", f"{found['conclusive']:.0%}", found["verdict"]]
    return [found["model"], str(found["placements"]), *shares, *rest]


def print_table(results: Sequence[dict[str, Any]]) -> None:
    heads = ["Model", "Placements", *HEADS]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for found in results:
        print(f"| {' | '.join(row(found))} |")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["treelstm", "treelstm:hidden_dim=512"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--longer", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main(options: argparse.Namespace) -> None:
    results = [judged(model, options) for model in options.models]
    print_table(results)
    if options.json:
        asked = {name: value for name, value in vars(options).items() if name != "json"}
        story = measured_here(" ".join(options.models), seed=0)
        write_json(options.json, {"asked": asked, **story, "results": results})


if __name__ == "__main__":
    main(parse())
