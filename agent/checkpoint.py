"""Checkpoints: a folder with the policy, the optimizer's state and a manifest; never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dynpartition.agent.network import FEATURE_VERSION, FEATURES, weight_shapes
from dynpartition.agent.policy import Policy
from dynpartition.errors import CheckpointError
from dynpartition.types import FloatArray

FORMAT, VERSION = "dynpartition-checkpoint", 2
POLICY, OPTIMIZER, MANIFEST = "policy.safetensors", "optimizer.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A policy with what is needed to train on."""

    policy: Policy
    optimizer: Mapping[str, FloatArray] = field(default_factory=dict)
    """Adam's moments by weight name, `step`; empty: training starts a fresh optimizer."""
    training: Mapping[str, object] = field(default_factory=dict)
    """Where the weights come from: seed, episodes, seconds, profile, score. JSON values only."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `folder`, which a reader sees complete or not at all.

    A folder that was there is replaced. Should the machine stop between the two renames of that,
    it is whole under the name `.FOLDER.old`, where `load_checkpoint` finds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = {POLICY: save(_contiguous(checkpoint.policy.weights))}
        files[OPTIMIZER] = save(_contiguous(checkpoint.optimizer))
        manifest = _manifest(checkpoint, files)
        files[MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
        for name, content in files.items():
            _write(fresh / name, content)
        fresh.chmod(0o755)  # mkdtemp makes it private
        _sync_folder(fresh)
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`, or what an interrupted `save_checkpoint` left of it.

    Raises CheckpointError when it is missing, damaged, or of another version or feature set.
    """
    if not folder.exists() and _set_aside(folder).exists():
        folder = _set_aside(folder)
    manifest = _read_manifest(folder)
    weights = _read_arrays(folder, manifest, POLICY)
    _check_shapes(folder, manifest, weights)
    policy = Policy({name: weights[name] for name in weight_shapes()})
    training = manifest.get("training", {})
    if not isinstance(training, dict):
        raise CheckpointError(f"{folder / MANIFEST}: training is not an object")
    optimizer = _read_arrays(folder, manifest, OPTIMIZER)
    _check_optimizer(folder, weights, optimizer)
    return Checkpoint(policy, optimizer, training)


def _manifest(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> dict[str, object]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "feature_version": FEATURE_VERSION,
        "features": {kind: list(names) for kind, names in FEATURES.items()},
        "styles": checkpoint.policy.n_styles,
        "training": dict(checkpoint.training),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }


def _contiguous(arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Safetensors writes the buffer as it lies, so it must lie in order."""
    return {name: np.asarray(array, dtype=np.float32, order="C") for name, array in arrays.items()}


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(fresh: Path, folder: Path) -> None:
    old = _set_aside(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Return where the old checkpoint lies while a new one takes its place."""
    return folder.parent / f".{folder.name}.old"


def _read_manifest(folder: Path) -> dict[str, object]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}; name a folder that pretrain or finetune wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; restore it or train again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no {FORMAT}; name a folder that pretrain wrote")
    _check_version(path, manifest)
    return manifest


def _check_version(path: Path, manifest: Mapping[str, object]) -> None:
    expected: dict[str, object] = {
        "version": VERSION,
        "feature_version": FEATURE_VERSION,
        "features": {kind: list(names) for kind, names in FEATURES.items()},
    }
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise CheckpointError(
                f"{path}: {key} is {manifest.get(key)!r}, this version needs {value!r};"
                " train the policy again"
            )


def _read_arrays(folder: Path, manifest: Mapping[str, object], name: str) -> dict[str, FloatArray]:
    path = folder / name
    sums = manifest.get("sha256")
    expected = sums.get(name) if isinstance(sums, dict) else None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; restore it or train again") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the manifest's; restore it")
    try:
        arrays: dict[str, FloatArray] = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}; restore it") from None
    return arrays


def _check_shapes(
    folder: Path, manifest: Mapping[str, object], weights: Mapping[str, FloatArray]
) -> None:
    expected = weight_shapes(_number(folder, manifest, "styles"))
    found = {name: array.shape for name, array in weights.items()}
    if found != expected:
        raise CheckpointError(f"{folder / POLICY} holds {found}, its manifest promises {expected}")
    _check_finite(folder / POLICY, weights)


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
    _check_finite(folder / OPTIMIZER, optimizer)
    if any((array < 0).any() for name, array in optimizer.items() if not name.endswith("exp_avg")):
        raise CheckpointError(f"{folder / OPTIMIZER} holds a negative square; train again")


def _check_finite(path: Path, arrays: Mapping[str, FloatArray]) -> None:
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} must be finite float32 numbers; train again")


def _number(folder: Path, manifest: Mapping[str, object], key: str) -> int:
    value = manifest.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        raise CheckpointError(f"{folder / MANIFEST}: {key} is {value!r}; it must be 1 to 64")
    return value
