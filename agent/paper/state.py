"""What a training run has to remember to go on as if it had not stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import torch

from dynpartition.agent.checkpoint_folder import Arrays
from dynpartition.agent.paper.agent import network_weights
from dynpartition.agent.paper.config import PaperConfig
from dynpartition.agent.paper.network import PaperNetwork
from dynpartition.errors import CheckpointError

_NETWORK, _ADAM = "network.", "adam."
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_BUDGET = ("seconds", "episodes")


def learner_facts(config: PaperConfig) -> dict[str, object]:
    """Return all of a configuration but its budget, as JSON values."""
    facts = {name: value for name, value in asdict(config).items() if name not in _BUDGET}
    return facts | {"defects": list(config.defects)}


def save_state(network: PaperNetwork, adam: torch.optim.Adam) -> Arrays:
    """Return the newest weights and Adam's moments, by name."""
    arrays: Arrays = {_NETWORK + name: w for name, w in network_weights(network).items()}
    for name, param in network.named_parameters():
        for key, value in adam.state.get(param, {}).items():
            arrays[f"{_ADAM}{name}.{key}"] = np.array(value.numpy())
    return arrays


def restore_state(
    network: PaperNetwork, adam: torch.optim.Adam, arrays: Mapping[str, object]
) -> None:
    """Give both what `save_state` returned; CheckpointError when it is of another network."""
    params = dict(network.named_parameters())
    found = {name: np.asarray(array) for name, array in arrays.items()}
    for name, param in params.items():
        weight = found.get(_NETWORK + name)
        if weight is None or weight.shape != tuple(param.shape):
            raise CheckpointError(
                f"the checkpoint's state does not hold {name} of shape {tuple(param.shape)}; train"
                " again"
            )
        with torch.no_grad():
            param.copy_(torch.from_numpy(weight))
        moments = {key: found.get(f"{_ADAM}{name}.{key}") for key in _MOMENTS}
        if all(moment is not None for moment in moments.values()):
            adam.state[param] = {key: torch.tensor(moment) for key, moment in moments.items()}
