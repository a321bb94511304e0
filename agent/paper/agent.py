"""A trained agent of the paper, and the scheduler that plays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dynpartition.agent.paper.cases import make_case, stacked
from dynpartition.agent.paper.config import PaperConfig
from dynpartition.agent.paper.learner import greedy
from dynpartition.agent.paper.network import PaperNetwork
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, single_task_launches
from dynpartition.profile import Profile
from dynpartition.types import FloatArray

Weights = Mapping[str, FloatArray]
"""Parameters by their name in `PaperNetwork`."""


@dataclass(frozen=True, eq=False)
class PaperAgent:
    """Weights, what they were trained with, and the devices that their outputs stand for."""

    weights: Weights
    config: PaperConfig
    devices: tuple[str, ...]

    @staticmethod
    def untrained(config: PaperConfig, devices: Sequence[str]) -> PaperAgent:
        """Return an agent whose weights follow from the seed."""
        network = PaperNetwork(config, len(devices))
        return PaperAgent(network_weights(network), config, tuple(devices))

    def network(self) -> PaperNetwork:
        """Return a new network with these weights."""
        network = PaperNetwork(self.config, len(self.devices))
        network.load_state_dict({name: torch.tensor(w) for name, w in self.weights.items()})
        return network


def network_weights(network: PaperNetwork) -> dict[str, FloatArray]:
    """Return copies of the parameters."""
    return {name: param.detach().numpy().copy() for name, param in network.named_parameters()}


class PaperScheduler(Scheduler):
    """Plays an agent: the best device of every node at once, tasks in topological order.

    Where tasks are revealed later, it is asked again with the graph known by then.
    """

    def __init__(self, agent: PaperAgent) -> None:
        self.agent = agent
        self.name = agent.config.kind
        self._network = agent.network()

    @staticmethod
    def load(folder: Path, kind: str) -> PaperScheduler:
        """Return the scheduler of a checkpoint; CheckpointError if it cannot be used."""
        from dynpartition.agent.paper.checkpoint import load_agent

        return PaperScheduler(load_agent(folder, kind))

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError for other devices or too many nodes."""
        names = profile.cluster.names
        if names != self.agent.devices:
            raise SchedulerError(
                f"this {self.name} agent was trained for {', '.join(self.agent.devices)}, and the"
                f" profile has {', '.join(names)}; train one with this profile (pretrain --agent"
                f" {self.name})"
            )
        config = self.agent.config
        keeps_parents = "parent-channel" not in config.defects
        case = make_case(graph, profile, config.max_nodes, parent_channel=keeps_parents)
        actions = greedy(self._network, stacked([case]))[0].astype(np.int64)
        return single_task_launches(case.choices(actions, planned), names)
