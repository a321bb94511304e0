"""Checkpoints: a folder with the policy, the optimizer's state and a manifest; never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.numpy import save

from dynpartition.agent.checkpoint_folder import (
    MANIFEST,
    as_floats,
    check_finite,
    check_values,
    complete_folder,
    read_arrays,
    read_file,
    read_manifest,
    write_folder,
)
from dynpartition.agent.network import FEATURE_VERSION, FEATURES, weight_shapes
from dynpartition.agent.policy import Policy
from dynpartition.errors import CheckpointError
from dynpartition.types import FloatArray

FORMAT, VERSION = "dynpartition-checkpoint", 2
POLICY, OPTIMIZER = "policy.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A policy with what is needed to train on."""

    policy: Policy
    optimizer: Mapping[str, FloatArray] = field(default_factory=dict)
    """Adam's moments by weight name, `step`; empty: training starts a fresh optimizer."""
    training: Mapping[str, object] = field(default_factory=dict)
    """Where the weights come from: seed, episodes, seconds, profile, score. JSON values only."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What else belongs to it, by file name, such as the runs that fine-tuning has learned from."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `folder`, which a reader sees complete or not at all.

    A folder that was there is replaced.
    """
    files = {POLICY: save(as_floats(checkpoint.policy.weights))}
    files[OPTIMIZER] = save(as_floats(checkpoint.optimizer))
    write_folder(folder, {**checkpoint.files, **files}, _manifest(checkpoint))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`, or what an interrupted `save_checkpoint` left of it.

    Raises CheckpointError when it is missing, damaged, or of another version or feature set.
    """
    folder = complete_folder(folder)
    manifest = read_manifest(folder, FORMAT)
    check_values(folder / MANIFEST, manifest, _versions())
    weights = _read_floats(folder, manifest, POLICY)
    _check_shapes(folder, manifest, weights)
    policy = Policy({name: weights[name] for name in weight_shapes()})
    training = manifest.get("training", {})
    if not isinstance(training, dict):
        raise CheckpointError(f"{folder / MANIFEST}: training is not an object")
    optimizer = _read_floats(folder, manifest, OPTIMIZER)
    _check_optimizer(folder, weights, optimizer)
    files = {name: read_file(folder, manifest, name) for name in _other_files(manifest)}
    return Checkpoint(policy, optimizer, training, files)


def _other_files(manifest: Mapping[str, object]) -> list[str]:
    sums = manifest.get("sha256")
    return [] if not isinstance(sums, dict) else [n for n in sums if n not in (POLICY, OPTIMIZER)]


def _manifest(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "format": FORMAT,
        **_versions(),
        "styles": checkpoint.policy.n_styles,
        "training": dict(checkpoint.training),
    }


def _versions() -> dict[str, object]:
    return {
        "version": VERSION,
        "feature_version": FEATURE_VERSION,
        "features": {kind: list(names) for kind, names in FEATURES.items()},
    }


def _read_floats(folder: Path, manifest: Mapping[str, object], name: str) -> dict[str, FloatArray]:
    arrays = read_arrays(folder, manifest, name)
    check_finite(folder / name, arrays)
    return as_floats(arrays)


def _check_shapes(
    folder: Path, manifest: Mapping[str, object], weights: Mapping[str, FloatArray]
) -> None:
    expected = weight_shapes(_number(folder, manifest, "styles"))
    found = {name: array.shape for name, array in weights.items()}
    if found != expected:
        raise CheckpointError(f"{folder / POLICY} holds {found}, its manifest promises {expected}")


def _check_optimizer(
    folder: Path, weights: Mapping[str, FloatArray], optimizer: Mapping[str, FloatArray]
) -> None:
    """Refuse moments that are not those of these weights: Adam would fail later, or go astray."""
    expected = {f"{name}.step": () for name in weights}
    for moment in ("exp_avg", "exp_avg_sq"):
        expected |= {f"{name}.{moment}": array.shape for name, array in weights.items()}
    found = {name: array.shape for name, array in optimizer.items()}
    if found and found != expected:
        raise CheckpointError(
            f"{folder / OPTIMIZER} does not belong to {POLICY}; restore it or train again"
        )
    if any((array < 0).any() for name, array in optimizer.items() if not name.endswith("exp_avg")):
        raise CheckpointError(f"{folder / OPTIMIZER} holds a negative square; train again")


def _number(folder: Path, manifest: Mapping[str, object], key: str) -> int:
    value = manifest.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise CheckpointError(f"{folder / MANIFEST}: {key} is {value!r}; it must be 1 to 64")
    return value
