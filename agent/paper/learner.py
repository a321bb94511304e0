"""How the two agents choose while they learn, and what they learn from an episode.

DQN: the value of an episode is the sum of the values of the chosen devices over the nodes, since
one decision is all there is; it is regressed on the reward. Policy-value: the probability of an
episode is the product over the nodes; it moves by REINFORCE with the value network as baseline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dynpartition.agent.paper.cases import Stack
from dynpartition.agent.paper.config import PaperConfig
from dynpartition.agent.paper.network import PaperNetwork, masked_scores
from dynpartition.types import FloatArray, IntArray

_LOG_MIN = -50.0  # 0 · log 0 is 0, not nan


@dataclass(frozen=True, slots=True)
class Episodes:
    """B episodes to learn from."""

    stack: Stack
    actions: IntArray  # (B, M)
    rewards: FloatArray  # (B,)


class Learner(ABC):
    """One agent with its optimizer."""

    learns_from_replay: bool

    def __init__(self, network: PaperNetwork, config: PaperConfig) -> None:
        self.network = network
        self.config = config
        self.adam = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

    @abstractmethod
    def explore(self, stack: Stack, rng: np.random.Generator) -> IntArray:
        """Return (B, M) devices to try."""

    @abstractmethod
    def loss(self, episodes: Episodes) -> Tensor:
        """Return the mean loss over episodes."""

    def learn(self, episodes: Episodes) -> float:
        """Take one step and return the loss before it."""
        self.adam.zero_grad()
        if "unbatched" in self.config.defects:
            singles = [_episode(episodes, number) for number in range(len(episodes.rewards))]
            loss = torch.stack([self.loss(single) for single in singles]).mean()
        else:
            loss = self.loss(episodes)
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        return loss.item()


def greedy(network: PaperNetwork, stack: Stack) -> IntArray:
    """Return (B, M) the best device of each node."""
    actions: IntArray = masked_scores(network, stack).argmax(dim=2).numpy()
    return actions


class DqnLearner(Learner):
    """Deep Q-learning on one-step episodes."""

    learns_from_replay = True

    def explore(self, stack: Stack, rng: np.random.Generator) -> IntArray:
        """Return the best devices, and a random one with probability ε at each node."""
        return epsilon_greedy(self.network, stack, self.config.epsilon, rng)

    def loss(self, episodes: Episodes) -> Tensor:
        """Return the mean squared error of the values."""
        values = _chosen(self.network(torch.from_numpy(episodes.stack.code)), episodes)  # (B, M)
        return F.mse_loss(values.sum(dim=1), torch.from_numpy(episodes.rewards))


def epsilon_greedy(
    network: PaperNetwork, stack: Stack, epsilon: float, rng: np.random.Generator
) -> IntArray:
    """Return (B, M) best devices, each replaced by a random one with probability `epsilon`."""
    drawn = np.where(stack.allowed, rng.random(stack.allowed.shape), -1).argmax(axis=2)
    is_random = rng.random(drawn.shape) < epsilon
    return np.where(is_random, drawn, greedy(network, stack))


class PolicyValueLearner(Learner):
    """REINFORCE with a learned baseline, on the episodes just played."""

    learns_from_replay = False

    def explore(self, stack: Stack, rng: np.random.Generator) -> IntArray:
        """Return devices drawn by their probabilities."""
        scores = masked_scores(self.network, stack).numpy()
        drawn: IntArray = (scores + rng.gumbel(size=scores.shape)).argmax(axis=2)
        return drawn

    def loss(self, episodes: Episodes) -> Tensor:
        """Return the loss of the policy plus that of the value network."""
        scores = self.network(torch.from_numpy(episodes.stack.code))  # (B, M, D)
        legal = scores.masked_fill(~torch.from_numpy(episodes.stack.allowed), -torch.inf)
        log_probs = torch.log_softmax(legal, dim=2)
        log_prob = _chosen(log_probs, episodes)  # (B, M)
        rewards = torch.from_numpy(episodes.rewards)
        value = self.network.value(scores.detach())  # (B,)
        advantage = rewards - value.detach()
        if len(rewards) > 1:
            advantage = advantage / (advantage.std(unbiased=False) + 1e-3)
        spread = -(log_probs.exp() * log_probs.clamp(min=_LOG_MIN)).sum(dim=2)  # (B, M)
        entropy = spread[torch.from_numpy(episodes.stack.is_node)].mean()
        policy_loss = -(log_prob.sum(dim=1) * advantage).mean()
        return policy_loss - self.config.entropy * entropy + F.mse_loss(value, rewards)


class PublishedPolicyValueLearner(Learner):
    """The same as published: logarithms of raw scores, old episodes, the value never used."""

    learns_from_replay = True

    def explore(self, stack: Stack, rng: np.random.Generator) -> IntArray:
        """Return the devices of highest score, and a random one with probability ε."""
        return epsilon_greedy(self.network, stack, self.config.epsilon, rng)

    def loss(self, episodes: Episodes) -> Tensor:
        """Return both losses; the logarithm of a score below 0 counts as 0."""
        scores = self.network(torch.from_numpy(episodes.stack.code))
        log_score = torch.log(_chosen(scores, episodes, beyond=1.0)).nan_to_num()  # (B, M)
        rewards = torch.from_numpy(episodes.rewards)
        value = self.network.value(scores.detach())
        return -(log_score.sum(dim=1) * rewards).mean() + F.mse_loss(value, rewards)


def make_learner(network: PaperNetwork, config: PaperConfig) -> Learner:
    """Return the learner of the agent that `config` names."""
    if config.kind == "dqn":
        return DqnLearner(network, config)
    if "unnormalised-log" in config.defects:
        return PublishedPolicyValueLearner(network, config)
    return PolicyValueLearner(network, config)


def _chosen(scores: Tensor, episodes: Episodes, beyond: float = 0.0) -> Tensor:
    """Return (B, M) the entry of each node's device, `beyond` where there is no node."""
    picked = scores.gather(2, torch.from_numpy(episodes.actions).unsqueeze(2)).squeeze(2)
    return picked.masked_fill(~torch.from_numpy(episodes.stack.is_node), beyond)


def _episode(episodes: Episodes, number: int) -> Episodes:
    stack, one = episodes.stack, slice(number, number + 1)
    alone = Stack(stack.code[one], stack.allowed[one], stack.is_node[one])
    return Episodes(alone, episodes.actions[one], episodes.rewards[one])
