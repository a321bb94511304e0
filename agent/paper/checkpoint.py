"""Checkpoints of the paper's agents: the best agent, and the state that training goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save

from dynpartition.agent.checkpoint_folder import (
    MANIFEST,
    Arrays,
    as_floats,
    check_finite,
    check_values,
    complete_folder,
    read_arrays,
    read_manifest,
    write_folder,
)
from dynpartition.agent.paper.agent import PaperAgent, network_weights
from dynpartition.agent.paper.config import FORMAT, VERSION, PaperConfig
from dynpartition.agent.paper.network import PaperNetwork
from dynpartition.errors import CheckpointError, TrainingError

AGENT, STATE = "agent.safetensors", "state.safetensors"


@dataclass(frozen=True)
class PaperCheckpoint:
    """An agent with what is needed to train on."""

    agent: PaperAgent
    state: Arrays = field(default_factory=dict)
    """The newest weights, the optimizer and the memory, by name; empty: a fresh start."""
    training: Mapping[str, object] = field(default_factory=dict)
    """Counts, inputs and scores. JSON values only."""


def save_paper_checkpoint(folder: Path, checkpoint: PaperCheckpoint) -> None:
    """Write `checkpoint` to `folder`, which a reader sees complete or not at all."""
    agent = checkpoint.agent
    state = {name: np.asarray(array, order="C") for name, array in checkpoint.state.items()}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "devices": list(agent.devices),
        "config": asdict(agent.config),
        "training": dict(checkpoint.training),
    }
    write_folder(folder, {AGENT: save(as_floats(agent.weights)), STATE: save(state)}, manifest)


def load_paper_checkpoint(folder: Path) -> PaperCheckpoint:
    """Return the checkpoint in `folder`; CheckpointError when it is missing or damaged."""
    folder = complete_folder(folder)
    manifest = read_manifest(folder, FORMAT)
    check_values(folder / MANIFEST, manifest, {"version": VERSION})
    agent = _agent(folder, manifest)
    training = manifest.get("training", {})
    if not isinstance(training, dict):
        raise CheckpointError(f"{folder / MANIFEST}: training is not an object")
    return PaperCheckpoint(agent, read_arrays(folder, manifest, STATE), training)


def load_agent(folder: Path, kind: str) -> PaperAgent:
    """Return the agent in `folder`; CheckpointError when it is not of this kind, or unusable."""
    agent = load_paper_checkpoint(folder).agent
    if agent.config.kind != kind:
        raise CheckpointError(
            f"{folder} holds a {agent.config.kind} agent; play it with --scheduler"
            f" {agent.config.kind}, or name a folder with a {kind} one"
        )
    return agent


def _agent(folder: Path, manifest: Mapping[str, object]) -> PaperAgent:
    path = folder / MANIFEST
    try:
        devices = msgspec.convert(manifest.get("devices"), tuple[str, ...])
        config = msgspec.convert(manifest.get("config"), PaperConfig)
    except (msgspec.ValidationError, TrainingError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; restore it or train again") from None
    weights = read_arrays(folder, manifest, AGENT)
    check_finite(folder / AGENT, weights)
    expected = {
        name: weight.shape
        for name, weight in network_weights(PaperNetwork(config, len(devices))).items()
    }
    found = {name: array.shape for name, array in weights.items()}
    if found != expected:
        raise CheckpointError(f"{folder / AGENT} holds {found}, its manifest promises {expected}")
    return PaperAgent(as_floats(weights), config, devices)
