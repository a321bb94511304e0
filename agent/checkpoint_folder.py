"""Folders of files with a manifest that holds their sha256; never pickle.

A folder is written under another name, synced and renamed, so a reader sees it complete or not at
all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from dynpartition.errors import CheckpointError
from dynpartition.types import FloatArray

MANIFEST = "manifest.json"
Arrays = dict[str, npt.NDArray[np.generic]]
"""What a safetensors file holds, by name."""


def write_folder(folder: Path, files: Mapping[str, bytes], manifest: Mapping[str, object]) -> None:
    """Write `files`, and `manifest` with their sums, to `folder`; one that was there is replaced.

    Should the machine stop between the two renames of that, it is whole under the name
    `.FOLDER.old`, where `complete_folder` finds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = json.dumps({**manifest, "sha256": sums}, indent=1, sort_keys=True)
    try:
        for name, content in {**files, MANIFEST: text.encode()}.items():
            _write(fresh / name, content)
        fresh.chmod(0o755)  # mkdtemp makes it private
        _sync_folder(fresh)
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def complete_folder(folder: Path) -> Path:
    """Return `folder`, or where an interrupted `write_folder` left it."""
    return folder if folder.exists() or not _set_aside(folder).exists() else _set_aside(folder)


def read_manifest(folder: Path, *formats: str) -> dict[str, object]:
    """Return the manifest; CheckpointError when it is missing, damaged or of no such format."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}; name a folder that pretrain or finetune wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; restore it or train again") from None
    if not isinstance(manifest, dict) or manifest.get("format") not in formats:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        other = f" but a {found}" if isinstance(found, str) else ""
        raise CheckpointError(
            f"{path} is no {' or '.join(formats)}{other}; name a folder that pretrain wrote"
        )
    return manifest


def check_values(
    path: Path, manifest: Mapping[str, object], expected: Mapping[str, object]
) -> None:
    """Raise CheckpointError unless the manifest at `path` has these values."""
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise CheckpointError(
                f"{path}: {key} is {manifest.get(key)!r}, this version needs {value!r};"
                " train the policy again"
            )


def read_arrays(folder: Path, manifest: Mapping[str, object], name: str) -> Arrays:
    """Return the arrays of one file; CheckpointError when it is missing or damaged."""
    content = read_file(folder, manifest, name)
    try:
        arrays: Arrays = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / name} is damaged: {error}; restore it") from None
    return arrays


def read_file(folder: Path, manifest: Mapping[str, object], name: str) -> bytes:
    """Return the content of one file; CheckpointError when it is missing or not the manifest's."""
    path = folder / name
    if path.parent != folder:
        raise CheckpointError(f"{folder / MANIFEST} names {name!r}, which is no file in it")
    sums = manifest.get("sha256")
    expected = sums.get(name) if isinstance(sums, dict) else None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; restore it or train again") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the manifest's; restore it")
    return content


def check_finite(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Raise CheckpointError unless all arrays are finite float32 numbers."""
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} must be finite float32 numbers; train again")


def as_floats(arrays: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, FloatArray]:
    """Return float32 arrays in C order: safetensors writes the buffer as it lies."""
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
    """Return where the old folder lies while a new one takes its place."""
    return folder.parent / f".{folder.name}.old"
