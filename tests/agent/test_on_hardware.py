"""The environment and training on real devices: the backend is swapped, nothing else."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dynpartition import Curve, parse_devices
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.env import ENV_ID, PlacementEnv
from dynpartition.agent.policy import Policy
from dynpartition.agent.train import train
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.devices import uncalibrated_profile
from dynpartition.models import ModelInput, build_model, generate_inputs, generate_tokens
from dynpartition.sim.backend import SimBackend

DEVICES = parse_devices("cpu:0,cpu:1")
SIZES = {"treelstm": {"input_dim": 8, "hidden_dim": 4}, "moe": {"width": 16, "heads": 2}}


def invented_profile(model):
    curves = {"cpu:0": Curve((1,), (30_000,)), "cpu:1": Curve((1,), (40_000,))}
    cells = {cell.name: curves for cell in model.graph_cells}
    return replace(uncalibrated_profile(DEVICES), cells=cells)


@pytest.fixture(scope="module", params=list(SIZES))
def world(request):
    """A model and both backends under one profile."""
    model = build_model(request.param, SIZES[request.param], seed=1)
    profile = invented_profile(model)
    with HardwareBackend(model, DEVICES, profile=profile) as hardware:
        yield model, SimBackend(profile), hardware


def play(backend, workload, seed, *, batching=False):
    """Return what a random player sees, its choices, and the plan."""
    env = PlacementEnv(backend, [workload], batching=batching)
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=0)
    seen, chosen, done = [observation], [], False
    while not done:
        chosen.append(rng.choice(np.flatnonzero(observation["mask"])))
        observation, _, done, _, info = env.step(chosen[-1])
        seen.append(observation)
    env.close()
    return seen, chosen, info["plan"]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["candidates"], b["candidates"])
        np.testing.assert_array_equal(a["mask"], b["mask"])


@pytest.mark.parametrize("batching", [False, True])
def test_same_choices_give_the_same_observations_and_plan(world, batching):
    model, simulated, hardware = world
    sizes = []
    for seed, workload in enumerate(generate_inputs(model, 3, seed=2)):
        on_simulator, on_devices = (
            play(backend, workload, seed, batching=batching) for backend in (simulated, hardware)
        )
        assert_same(on_simulator[0], on_devices[0])
        assert on_simulator[1:] == on_devices[1:]
        sizes += [len(launch.tasks) for launch in on_devices[2].launches]
    assert (max(sizes) > 1) == batching


@pytest.mark.parametrize("world", ["moe"], indirect=True)
def test_what_is_hidden_changes_nothing_before_it_is_revealed(world):
    """Other tokens take other routes: alike until the router has run on the devices."""
    model, _, hardware = world
    tokens = generate_tokens(6, 3, width=16)
    played = [play(hardware, ModelInput(model, sample), 5) for sample in tokens]
    opening = 2  # choices: attention and router of the first block
    for seen, chosen, _ in played[1:]:
        assert_same(seen[:opening], played[0][0][:opening])
        assert chosen[:opening] == played[0][1][:opening]
    assert len({len(chosen) for _, chosen, _ in played}) > 1


def test_gymnasium_accepts_the_devices_as_it_accepts_the_simulator(world):
    """Its checker compares two runs from one seed; on devices only the reward may differ."""
    model, simulated, hardware = world
    workloads = generate_inputs(model, 2, seed=3)
    for backend in (simulated, hardware):
        env = gymnasium.make(ENV_ID, backend=backend, workloads=workloads)
        check_env(env.unwrapped, skip_render_check=True)
        assert env.spec is not None
        env.close()


def test_an_abandoned_episode_frees_the_devices(world):
    model, _, hardware = world
    workload = generate_inputs(model, 1, seed=4)[0]
    env = PlacementEnv(hardware, [workload])
    env.reset(seed=0)
    env.reset(seed=0)
    env.close()
    assert play(hardware, workload, 0)[2] is not None


def test_training_goes_on_with_one_session_at_a_time(world):
    model, _, hardware = world
    config = TrainConfig(seconds=None, episodes=8, groups=1, rollouts=4, keep="last")
    start = Policy.untrained(n_styles=2)
    result = train(hardware, generate_inputs(model, 2, seed=5), start, config)
    assert [metrics["episodes"] for metrics in result.history] == [4, 8]
    assert any(np.any(result.policy.weights[n] != weight) for n, weight in start.weights.items())
    hardware.open(generate_inputs(model, 1, seed=5)[0]).close()  # the devices are free again
