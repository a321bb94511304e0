"""TorchRL's own checker accepts the padded environment."""

import pytest

from dynpartition.agent.env import PlacementEnv
from dynpartition.interop.padded_env import PaddedPlacement
from dynpartition.sim import SimBackend
from tests.agent.worlds import trees, two_cpus

pytest.importorskip("torchrl", reason="the extra `torchrl` is not installed")


def test_specs_are_as_declared():
    from torchrl.envs import check_env_specs
    from torchrl.envs.libs.gym import GymWrapper

    env = PaddedPlacement(PlacementEnv(SimBackend(two_cpus()), trees(4, 3), max_ready=3))
    check_env_specs(GymWrapper(env, categorical_action_encoding=True))
