"""Every model of the registry is an episode of the environment, reveals included."""

import numpy as np
import pytest

from dynpartition.agent.env import PlacementEnv
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.models import generate_inputs
from dynpartition.models.registry import MODELS
from dynpartition.sim import SimBackend
from tests.models.test_registry import REVEALING, small_model


@pytest.mark.parametrize("name", MODELS)
def test_random_legal_choices_place_an_input_of_every_model(name):
    model = small_model(name)
    inputs = generate_inputs(model, 2, 4)
    graphs = [each.graph for each in inputs]
    profile = draw_profile(graphs, Machine(), np.random.default_rng(0))
    env = PlacementEnv(SimBackend(profile), inputs)
    rng = np.random.default_rng(1)
    for seed in range(2):
        env.reset(seed=seed)
        ended, steps, reward = False, 0, 0.0
        while not ended:
            legal = np.flatnonzero(env.action_masks())
            _, reward, ended, cut, _ = env.step(int(rng.choice(legal)))
            assert not cut
            steps += 1
        assert np.isfinite(reward) and steps >= min(map(len, graphs))
    assert any(graph.revealers for graph in graphs) == (name in REVEALING)
