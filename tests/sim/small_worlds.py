"""Builds worlds small enough to compute by hand, and runs them through the command line.

Unless a world says otherwise: three devices of different speed, every link with 5 ns latency and
1 byte/ns, and tasks that cost 100 ns on `cpu:0`, 10 ns on `cuda:0` and 20 ns on `cuda:1`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynpartition.__main__ import main

Json = dict[str, Any]
Places = list[tuple[str, list[int]]]

COSTS = {"cpu:0": 100, "cuda:0": 10, "cuda:1": 20}


def task(number: int, *inputs: int, size: int = 20, **fields: Any) -> Json:
    return {
        "id": number,
        "cell": "cell",
        "inputs": list(inputs),
        "output_bytes": size,
        "duration_ns": COSTS,
        **fields,
    }


def link(src: str, dst: str, **fields: Any) -> Json:
    cost = {} if "table" in fields else {"latency_ns": 5, "bandwidth_bytes_per_s": 10**9}
    return {"src": src, "dst": dst, **cost, **fields}


def links(**fields: Any) -> list[Json]:
    """One link from each device to each other, all with the same fields."""
    return [link(a, b, **fields) for a in COSTS for b in COSTS if a != b]


def devices(fields: Mapping[str, Json] | None = None) -> list[Json]:
    """The three devices, some with more fields."""
    own = fields or {}
    return [{"name": name, "kind": name.split(":")[0], **own.get(name, {})} for name in COSTS]


def profile(chosen: list[Json] | None = None, **fields: Any) -> Json:
    return {
        "format": "dynpartition-profile",
        "version": 1,
        "devices": devices(),
        "links": links() if chosen is None else chosen,
        "cells": {},
        **fields,
    }


class World:
    """Runs `dynpartition simulate` on files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "trace.json"

    def run(
        self,
        tasks: list[Json],
        plan: Places,
        profile: Json,
        *,
        weights: Mapping[str, int] | None = None,
        slow: Sequence[str] = (),
    ) -> Json:
        """Return the trace; `weights` has the cells with their bytes."""
        assert self.exit_status(tasks, plan, profile, weights=weights, slow=slow) == 0
        trace: Json = json.loads(self.out.read_text())
        return trace

    def exit_status(
        self,
        tasks: list[Json],
        plan: Places,
        profile: Json,
        *,
        weights: Mapping[str, int] | None = None,
        slow: Sequence[str] = (),
    ) -> int:
        sizes = weights or {"cell": 0}
        names = {
            "graph": {
                "format": "dynpartition-graph",
                "version": 1,
                "name": "world",
                "cells": [{"name": name, "param_bytes": size} for name, size in sizes.items()],
                "tasks": tasks,
            },
            "profile": profile,
            "plan": {
                "format": "dynpartition-plan",
                "version": 1,
                "launches": [{"device": device, "tasks": tasks} for device, tasks in plan],
            },
        }
        arguments = ["simulate"]
        for name, content in names.items():
            path = self.folder / f"{name}.json"
            path.write_text(json.dumps(content))
            arguments += [f"--{name}", str(path)]
        slowdowns = ["--slow", *slow] if slow else []
        return main([*arguments, "--json", str(self.out), *slowdowns])


def spans(trace: Json) -> list[tuple[str, list[int], int, int]]:
    return [(s["device"], s["tasks"], s["start_ns"], s["end_ns"]) for s in trace["launches"]]


def moves(trace: Json) -> list[tuple[str, list[int], int, int, int]]:
    return [
        (f"{s['src']}->{s['dst']}", s["tasks"], s["bytes"], s["start_ns"], s["end_ns"])
        for s in trace["transfers"]
    ]


def dispatches(trace: Json) -> list[tuple[str, list[int], int, int]]:
    return [(s["device"], s["tasks"], s["start_ns"], s["end_ns"]) for s in trace["dispatches"]]


def loads(trace: Json) -> list[tuple[str, str, int, int]]:
    return [(s["device"], s["cell"], s["start_ns"], s["end_ns"]) for s in trace["loads"]]
