"""How a scheduler does where a policy was not trained, against the best of heuristics.

    python benchmarks/transfer.py [--scheduler policy] [--worlds 60] [--trees FILE] [--only WORD]
                                  [--policy DIR] [--seed 0] [--json FILE]

The makespan divided by that of `best-of-heuristics` on the same world: geometric mean over worlds
and its paired bootstrap 95 % interval, for larger graphs, other numbers of devices, slower ones,
every family, every way a host dispatches, first uses of cells, and the graphs of every model (trees
from `--trees`; else generated inputs) on random machines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dynpartition import GraphWorkload, run
from dynpartition.agent.families import FAMILIES, Ranges, World, draw_setting, draw_world
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.agent.registry import make_scheduler
from dynpartition.cli.options import load_inputs
from dynpartition.formats import write_json
from dynpartition.models import build_model
from dynpartition.models.registry import MODELS
from dynpartition.sim import SimBackend

BASELINE = "best-of-heuristics"
RESAMPLES = 4000
USUAL = Ranges(
    families=("in-tree", "tree-with-outputs", "layered", "moe"),
    n_tasks=(16, 64),
    n_devices=(3, 4),
    ratio=(0.1, 10.0),
    slowest=(4.0, 12.0),
)
Draw = Callable[[np.random.Generator], World]


@dataclass(frozen=True)
class Row:
    """One kind of worlds."""

    worlds: str
    ratio: float
    low: float
    high: float


def from_ranges(ranges: Ranges) -> Draw:
    """Return what draws worlds of some ranges."""
    return lambda rng: draw_world(draw_setting(ranges, rng), rng)


def kinds() -> dict[str, Draw]:
    """Return what kinds of drawn worlds there are."""
    found: dict[str, Draw] = {}
    for size in (128, 256):
        found[f"{size} tasks"] = from_ranges(replace(USUAL, n_tasks=(size, size)))
    for count in (2, 3, 4, 6, 8):
        found[f"{count} devices"] = from_ranges(replace(USUAL, n_devices=(count, count)))
    found["slowest 16 to 32 times slower"] = from_ranges(replace(USUAL, slowest=(16.0, 32.0)))
    for family in FAMILIES:
        found[family] = from_ranges(replace(USUAL, families=(family,)))
    for mode in ("single", "threads", "processes", "replay"):
        found[f"host {mode}"] = from_ranges(replace(USUAL, host_modes=(mode,)))
    found["first uses"] = from_ranges(replace(USUAL, first_use_share=1.0))
    return found


def model_worlds(name: str, trees: Path | None, count: int, seed: int) -> Iterator[World]:
    """Yield graphs of a model's inputs, each with a machine of its own."""
    model = build_model(name)
    trees = trees if name == "treelstm" else None
    for number, each in enumerate(load_inputs(model, trees, count, seed)[:count]):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 99, number]))
        machine: Machine = draw_setting(USUAL, rng).machine
        yield World(each.graph, draw_profile([each.graph], machine, rng))


def measured(name: str, worlds: list[World], scheduler: str, policy: Path | None) -> Row:
    """Return the row of a kind of worlds."""
    logs = []
    for graph, profile in worlds:
        backend, workload = SimBackend(profile), GraphWorkload(graph)
        ours, theirs = (
            run(backend, workload, make_scheduler(each, policy=policy)).trace.makespan_ns
            for each in (scheduler, BASELINE)
        )
        logs.append(np.log(ours / theirs))
    values = np.array(logs)
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.exp(np.percentile(values[picks].mean(axis=1), [2.5, 97.5])).tolist()
    return Row(name, float(np.exp(values.mean())), low, high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scheduler", default="policy")
    parser.add_argument("--worlds", type=int, default=60, help="of each kind")
    parser.add_argument("--trees", type=Path, help="bracketed parse trees; else generated")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    drawn = kinds()
    graphs = {f"graphs of {model}": model for model in MODELS}
    chosen = [name for name in (*drawn, *graphs) if asked.only in name]
    if not chosen:
        names = ", ".join((*drawn, *graphs))
        parser.error(f"--only {asked.only!r}: no kind of worlds has this in its name: {names}")
    rows = []
    for name in chosen:
        if name in graphs:
            worlds = list(model_worlds(graphs[name], asked.trees, asked.worlds, asked.seed))
        else:
            number = list(drawn).index(name)
            sequence = [[asked.seed, number, world] for world in range(asked.worlds)]
            rngs = [np.random.default_rng(np.random.SeedSequence(each)) for each in sequence]
            worlds = [drawn[name](rng) for rng in rngs]
        rows.append(measured(name, worlds, asked.scheduler, asked.policy))
        show(rows[-1])
    if asked.json:
        content = {"scheduler": asked.scheduler, "rows": [asdict(row) for row in rows]}
        write_json(asked.json, content)


def show(row: Row) -> None:
    print(f"{row.worlds:34} {row.ratio:.3f}  {row.low:.3f}–{row.high:.3f}", flush=True)


if __name__ == "__main__":
    main()
