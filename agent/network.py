"""The policy's network: its weights, and a readable reference of what the compiled code computes.

N tasks, S styles. A graph network looks at each task, its inputs, its readers and the mean over the
graph once. Two small heads then score, step by step, the ready tasks and the options of the task
that was chosen: devices, alone or in one launch with other ready tasks of its cell. Styles share
everything but a priority per task and the biases of the heads: each is a policy of its own, and the
best of their plans is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dynpartition.agent import network_kernel as kernel
from dynpartition.types import FloatArray

N_STYLES = 4
"""Styles of a new policy."""

FEATURES = {
    "task": (
        *("rank_up", "rank_down", "rank", "rank_least", "duration", "least_over_mean", "move"),
        *("move_share", "inputs", "readers", "work_above", "work_below", "share_above"),
        *("share_below", "is_last", "host_input", "graph_move", "graph_width", "graph_tasks"),
        *("devices", "graph_gain", "shared_links", "share_2_up", "share_4_up", "share_6_up"),
        *("batch_gain", "weights_load"),
    ),
    "ready": (
        *("ready_lag", "follows", "age", "place", "one_home", "siblings", "home_load"),
        *("work_left", "near_placed", "far_placed", "mates", "mates_share"),
        *("of_last_cell", "resident_share"),
    ),
    "option": (
        *("start_lag", "finish_lag", "finishes_first", "wait", "move_in", "duration", "slower"),
        *("local_inputs", "rise", "load", "near_here", "far_here", "last_here", "slowness"),
        *("behind_fluid", "path", "alone", "split_gain", "move_out", "link_load", "used"),
        *("tasks_here", "moved", "near_placed", "farther_here", "far_placed"),
        *("batch", "batch_saves", "batch_local", "batch_waits", "batch_share", "batch_could_save"),
        *("weights_load", "of_cell_left", "weights_share", "evicts"),
    ),
}
"""Names of the features, in the order in which the compiled code writes them: of a task (N_STATIC),
of a ready task (N_READY_FEATURES), of an option for a chosen task (N_OPTION_FEATURES): a device,
alone or in a batch."""
FEATURE_VERSION = 4
"""Grows whenever a feature changes its meaning; checkpoints of other versions are refused."""

Weights = Mapping[str, FloatArray]

_E, _R, _O = kernel.N_EMBEDDED, kernel.N_READY_UNITS, kernel.N_OPTION_UNITS


def weight_shapes(n_styles: int = N_STYLES) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight, in the order of `kernel.Net`."""
    return {
        "embed": (kernel.N_STATIC, _E),
        "embed_bias": (_E,),
        "own": (_E, _E),
        "inputs": (_E, _E),
        "readers": (_E, _E),
        "context": (_E, _E),
        "mix_bias": (_E,),
        "priority": (_E, n_styles),
        "to_ready": (_E, _R),
        "ready": (kernel.N_READY_FEATURES, _R),
        "ready_bias": (n_styles, _R),
        "ready_score": (_R,),
        "to_option": (_E, _O),
        "option": (kernel.N_OPTION_FEATURES, _O),
        "option_bias": (n_styles, _O),
        "option_score": (_O,),
    }


def net_of(n_styles: int) -> kernel.Net:
    """Return where the weights lie in one array."""
    shapes = weight_shapes(n_styles)
    bounds = np.cumsum([0, *map(math.prod, shapes.values())]).tolist()
    return kernel.Net(n_styles, **dict(zip(shapes, bounds, strict=False)), size=bounds[-1])


def flat(weights: Weights) -> FloatArray:
    """Return all weights as one array, in the order of `kernel.Net`."""
    names = weight_shapes(len(weights["ready_bias"]))
    parts = [np.asarray(weights[name], dtype=np.float32).ravel() for name in names]
    joined: FloatArray = np.concatenate(parts)
    return joined


def unflat(values: FloatArray, n_styles: int) -> dict[str, FloatArray]:
    """Return the weights that lie in one array, as copies."""
    shapes = weight_shapes(n_styles)
    bounds = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(values, bounds)
    return {
        name: part.reshape(shape).copy()
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def untrained_weights(seed: int = 0, n_styles: int = N_STYLES) -> dict[str, FloatArray]:
    """Return random weights that prefer next to nothing."""
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    return {name: _initial(name, shape, rng) for name, shape in weight_shapes(n_styles).items()}


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    if name in ("embed_bias", "mix_bias"):
        return np.zeros(shape, dtype=np.float32)
    if name in ("ready_bias", "option_bias"):
        scale = 0.3  # styles differ from the start
    elif name in ("ready_score", "option_score", "priority"):
        scale = 0.1 / math.sqrt(shape[0])
    else:
        scale = math.sqrt(1 / shape[0])
    return (rng.standard_normal(shape) * scale).astype(np.float32)


class GraphCodes:
    """The reference of the graph network: what the heads are told of each task."""

    def __init__(
        self,
        weights: Weights,
        facts: FloatArray,
        inputs: Sequence[Sequence[int]],
        readers: Sequence[Sequence[int]],
    ) -> None:
        """Look at tasks with `facts` (N, N_STATIC) once."""
        w = weights
        coded = np.maximum(facts @ w["embed"] + w["embed_bias"], 0)  # (N, E)
        shared = coded.mean(axis=0) @ w["context"] + w["mix_bias"]  # (E,)
        before, behind = _means(coded, inputs), _means(coded, readers)  # (N, E) each
        mixed = coded @ w["own"] + before @ w["inputs"] + behind @ w["readers"] + shared
        self._weights = weights
        self._mixed = np.maximum(mixed, 0)  # (N, E)

    def ready_scores(self, tasks: Sequence[int], seen: FloatArray, style: int) -> FloatArray:
        """Return the score of each of n ready tasks with features (n, N_READY_FEATURES)."""
        w, mixed = self._weights, self._mixed[list(tasks)]
        units = mixed @ w["to_ready"] + seen @ w["ready"] + w["ready_bias"][style]
        priority = mixed @ w["priority"][:, style]
        scores: FloatArray = np.maximum(units, 0) @ w["ready_score"] + priority
        return scores

    def option_scores(self, task: int, seen: FloatArray, style: int) -> FloatArray:
        """Return the score of `task` on each of n devices with features (n, N_OPTION_FEATURES)."""
        w = self._weights
        units = self._mixed[task] @ w["to_option"] + seen @ w["option"] + w["option_bias"][style]
        scores: FloatArray = np.maximum(units, 0) @ w["option_score"]
        return scores


def _means(coded: FloatArray, rows: Sequence[Sequence[int]]) -> FloatArray:
    means = [coded[list(row)].mean(axis=0) if row else np.zeros(coded.shape[1]) for row in rows]
    return np.array(means, dtype=np.float32)
