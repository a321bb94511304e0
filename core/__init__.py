"""dynpartition: which device runs which part of a dynamic neural network, decided per input.

Axis letters: N tasks, E edges, D devices, L launches, C transfers, K candidates, F features,
B graphs or episodes, T steps.
"""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from dynpartition.cluster import AffineCost, Cluster, Device, Link, TableCost
from dynpartition.conditions import Conditions, Loss, Slowdown
from dynpartition.contract import (
    Backend,
    FixedPlan,
    GraphWorkload,
    Outcome,
    Scheduler,
    Session,
    Workload,
    drive,
    run,
)
from dynpartition.device_spec import parse_devices
from dynpartition.errors import DynPartitionError
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.plan import Launch, Plan, check_plan, single_task_plan
from dynpartition.profile import Curve, Dispatch, Noise, PricedGraph, Profile
from dynpartition.program import Program, lower
from dynpartition.trace import (
    DispatchSpan,
    LaunchSpan,
    LoadSpan,
    MonitorSample,
    Reveal,
    Trace,
    TransferSpan,
)

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import capture
    from dynpartition.models.capturing.structure import Arguments
    from dynpartition.models.capturing.suggest import suggest_cells
    from dynpartition.models.user_file import load_model
    from dynpartition.serving.runtime import Runtime

__version__ = "0.1.0"

_LAZY = {
    "Arguments": "dynpartition.models.capturing.structure",
    "capture": "dynpartition.models.capturing.model",
    "load_model": "dynpartition.models.user_file",
    "Runtime": "dynpartition.serving.runtime",
    "suggest_cells": "dynpartition.models.capturing.suggest",
}
"""Names that need PyTorch → where they are imported from once somebody asks for them."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AffineCost",
    "Arguments",
    "Backend",
    "Cell",
    "Cluster",
    "Conditions",
    "Curve",
    "Device",
    "Dispatch",
    "DispatchSpan",
    "DynPartitionError",
    "FixedPlan",
    "GraphWorkload",
    "Launch",
    "LaunchSpan",
    "Link",
    "LoadSpan",
    "Loss",
    "MonitorSample",
    "Noise",
    "Outcome",
    "Plan",
    "PricedGraph",
    "Profile",
    "Program",
    "Reveal",
    "Runtime",
    "Scheduler",
    "Session",
    "Slowdown",
    "TableCost",
    "Task",
    "TaskGraph",
    "Trace",
    "TransferSpan",
    "Workload",
    "__version__",
    "capture",
    "check_plan",
    "drive",
    "load_model",
    "lower",
    "parse_devices",
    "run",
    "single_task_plan",
    "suggest_cells",
]

# So that gymnasium.make("dynpartition/Placement-v0", backend=…) works after any import of this
# package; Gymnasium has no entry points for that. The environment itself is imported when made.
gymnasium.register(
    "dynpartition/Placement-v0",
    entry_point="dynpartition.agent.env:PlacementEnv",
    vector_entry_point="dynpartition.agent.vector_env:PlacementVectorEnv",
)

if __name__ != "dynpartition":
    raise ImportError("import dynpartition, not core")
