"""Training: the gradient's network is the player's, it learns, it resumes, it is reproducible."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dynpartition import GraphWorkload, run
from dynpartition.agent import train as train_module
from dynpartition.agent.checkpoint import load_checkpoint, save_checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.conformance import small_worlds
from dynpartition.agent.episode import Episodes
from dynpartition.agent.heuristics import Random
from dynpartition.agent.observe import Observation
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.rollout import Player
from dynpartition.agent.train import _Batch, advantages, log_softmax_scores, train
from dynpartition.errors import TrainingError
from dynpartition.sim.backend import SimBackend
from tests.agent.worlds import trees, two_cpus


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mean_log_ratio(scheduler, baseline, workloads) -> float:
    backend = SimBackend(two_cpus())
    spans = [
        [run(backend, w, s).trace.makespan_ns for s in (scheduler, baseline)] for w in workloads
    ]
    return sum(math.log(a / b) for a, b in spans) / len(spans)


def test_torch_and_numpy_networks_agree():
    policy = Policy.untrained(3)
    player = Player(SimBackend(two_cpus()), lockstep=4)
    rollouts = player.play(policy, trees(4, 0), np.random.default_rng(0))
    params = {name: torch.tensor(w) for name, w in policy.weights.items()}
    log_prob = log_softmax_scores(params, _Batch(rollouts, 2)).numpy()
    scores = np.concatenate([policy.scores(o) for o in rollouts.observations])
    expected = torch.log_softmax(torch.tensor(scores), dim=1).numpy()
    np.testing.assert_allclose(log_prob, expected, atol=1e-4)


def test_advantages_compare_episodes_of_one_workload_only():
    scaled = advantages(np.array([1, 3, 10, 10], dtype=np.float32), 2)
    np.testing.assert_allclose(scaled, [-1, 1, 0, 0], atol=2e-3)


def test_greedy_play_equals_the_scheduler():
    policy, workloads = Policy.untrained(3), trees(3, 50)
    backend = SimBackend(two_cpus())
    one, many = (Player(backend, lockstep=n).play(policy, workloads).rewards for n in (1, 3))
    np.testing.assert_array_equal(one, many)
    for workload, reward in zip(workloads, many, strict=True):
        makespan_ns = run(backend, workload, PolicyScheduler(policy)).trace.makespan_ns
        best_ns = Player(backend, lockstep=1)._baseline.best_single_ns(workload)
        assert reward == pytest.approx(-math.log(makespan_ns / best_ns), abs=1e-6)


@pytest.mark.parametrize("world", small_worlds(), ids=lambda w: w.name)
def test_environment_and_scheduler_decide_alike_across_reveals(world):
    """The scheduler starts from the launches so far, the episode goes on: same plans."""
    backend, policy = SimBackend(world.profile), Policy.untrained(5)
    episodes, slot = Episodes(backend, 1, policy.max_ready), np.zeros(1, dtype=np.int64)
    episodes.begin(slot, [GraphWorkload(world.graph)])
    while 0 not in episodes.finished:
        observation = Observation(episodes.batch.features, episodes.batch.mask)
        episodes.act(slot, policy.choose(observation))
    outcome = run(backend, GraphWorkload(world.graph), PolicyScheduler(policy))
    assert episodes.plan(0) == outcome.plan


def test_learns_to_beat_chance_and_the_untrained_policy():
    backend, held_out = SimBackend(two_cpus()), trees(12, 9000, (3, 6))
    config = TrainConfig(seconds=None, episodes=640, seed=0, validate_every=5)
    result = train(
        backend,
        trees(40, 0, (3, 6)),
        Policy.untrained(),
        config,
        validation=trees(8, 5000, (3, 6)),
    )
    trained = PolicyScheduler(result.policy)
    assert mean_log_ratio(trained, Random(0), held_out) < math.log(0.8)
    assert mean_log_ratio(trained, PolicyScheduler(Policy.untrained()), held_out) < math.log(0.9)
    assert result.history[-1]["episodes"] == 640


def test_the_first_episode_which_compiles_is_not_on_the_budget(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(train_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    play, costs_s = Player.play, iter([100.0])

    def slow(self, *args, **kwargs):
        now_s[0] += next(costs_s, 1.0)
        return play(self, *args, **kwargs)

    monkeypatch.setattr(Player, "play", slow)
    config = TrainConfig(seconds=4.5, groups=1, rollouts=2)
    result = train(SimBackend(two_cpus()), trees(2, 0), Policy.untrained(0), config)
    assert [line["seconds"] for line in result.history] == [2.0, 3.0, 4.0, 5.0]


def test_same_seed_same_weights():
    backend, workloads = SimBackend(two_cpus()), trees(4, 0, (3, 4))
    config = TrainConfig(seconds=None, episodes=64, groups=2, rollouts=4, lockstep=8)
    first, second = (train(backend, workloads, Policy.untrained(), config) for _ in range(2))
    assert first.best_validation == second.best_validation
    for name, weight in first.policy.weights.items():
        np.testing.assert_array_equal(weight, second.policy.weights[name])


def test_resumes_from_a_checkpoint_with_its_optimizer(tmp_path):
    backend, workloads = SimBackend(two_cpus()), trees(4, 0, (3, 4))
    config = TrainConfig(
        seconds=None, episodes=32, groups=2, rollouts=4, lockstep=1, validate_every=1
    )
    first = train(backend, workloads, Policy.untrained(), config).checkpoint
    save_checkpoint(tmp_path / "policy", first)
    loaded = load_checkpoint(tmp_path / "policy")
    assert loaded.optimizer.keys() == first.optimizer.keys()
    again = train(backend, workloads, loaded, config)
    assert again.checkpoint.training["episodes"] == 64
    assert again.best_validation >= first.training["validation"]


def test_nothing_better_keeps_the_start():
    backend, workloads, start = SimBackend(two_cpus()), trees(2, 0, (3, 4)), Policy.untrained()
    result = train(backend, workloads, start, TrainConfig(seconds=None, episodes=0))
    for name, weight in start.weights.items():
        np.testing.assert_array_equal(result.policy.weights[name], weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": None},
        {"rollouts": 1},
        {"lockstep": 0},
        {"learning_rate": -1.0},
        {"seconds": math.nan},
    ],
)
def test_configurations_that_make_no_sense(wrong):
    with pytest.raises(TrainingError):
        TrainConfig(**wrong)


def test_no_workloads():
    with pytest.raises(TrainingError, match="at least one workload"):
        train(SimBackend(two_cpus()), [], Policy.untrained(), TrainConfig(seconds=1))
