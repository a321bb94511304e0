"""Training: it learns, it resumes bit by bit, it is reproducible, with and without reveals."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dynpartition import Dispatch, GraphWorkload, run
from dynpartition.agent import train as train_module
from dynpartition.agent.checkpoint import load_checkpoint, save_checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.conformance import small_worlds
from dynpartition.agent.episode import Baseline
from dynpartition.agent.families import Ranges
from dynpartition.agent.heuristics import Random
from dynpartition.agent.lessons import advantages
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.rollout import Player
from dynpartition.agent.train import train
from dynpartition.agent.world_training import WorldConfig, train_on_worlds
from dynpartition.errors import TrainingError
from dynpartition.sim.backend import SimBackend
from tests.agent.worlds import trees, two_cpus

HIDDEN = [world for world in small_worlds() if world.graph.revealers]


def mean_log_ratio(scheduler, baseline, workloads, profile) -> float:
    backend = SimBackend(profile)
    spans = [
        [run(backend, w, s).trace.makespan_ns for s in (scheduler, baseline)] for w in workloads
    ]
    return sum(math.log(a / b) for a, b in spans) / len(spans)


def test_advantages_are_by_rank_and_by_style():
    """One slow outlier weighs no more than its rank; equal plans earn nothing."""
    one = advantages(np.array([100, 110, 120, 10**9]), 1)
    assert one.argmax() == 0 and one.argmin() == 3
    assert (one == advantages(np.array([100, 110, 120, 130]), 1)).all()
    assert one.sum() == pytest.approx(0)
    assert not advantages(np.full(8, 5), 2).any()


def test_what_only_one_style_finds_is_worth_more():
    """Both styles are as good on average; the one that wins its turn by more gets more for it."""
    found = advantages(np.array([10, 40, 30, 20]), 2)
    assert found[0] > found[3] > 0


def test_greedy_play_equals_the_scheduler():
    policy, workloads = Policy.untrained(3), trees(3, 50)
    backend = SimBackend(two_cpus())
    rewards = Player(backend).greedy(policy, workloads)
    for workload, reward in zip(workloads, rewards, strict=True):
        makespan_ns = run(backend, workload, PolicyScheduler(policy)).trace.makespan_ns
        best_ns = Baseline(backend).best_single_ns(workload)
        assert reward == pytest.approx(-math.log(makespan_ns / best_ns), abs=1e-6)


@pytest.mark.parametrize("part", ["greedy", "sample", "learn"])
def test_what_is_compiled_at_first_use_does_not_use_the_budget_up(part, monkeypatch):
    """A fresh installation compiles for a minute, whenever one of these is first called."""
    now_s, plain, left = [0.0], getattr(Player, part), [60.0]

    def compiling(*arguments):
        now_s[0] += left.pop() if left else 0
        return plain(*arguments)

    monkeypatch.setattr(Player, part, compiling)
    monkeypatch.setattr(train_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    config = TrainConfig(seconds=None, episodes=1, groups=1, rollouts=4)
    result = train(SimBackend(two_cpus()), trees(3, 50), Policy.untrained(0), config)
    assert now_s == [60]
    assert result.history[0]["seconds"] == 0


@pytest.mark.parametrize("world", HIDDEN, ids=lambda world: world.name)
def test_what_is_hidden_is_learned_from_as_what_is_not(world):
    """Asked again at each reveal; playing it again from the seeds gives the same choices."""
    player, policy = Player(SimBackend(world.profile)), Policy.untrained(5)
    styles = np.array([0, 1, 0])
    rollouts = player.sample(policy, GraphWorkload(world.graph), styles, np.array([7, 8, 9]))
    assert rollouts.n_decisions == len(styles) * len(world.graph)
    assert len(rollouts.segments) >= 2 * len(styles)
    gradients = np.zeros((2, policy.net.size), dtype=np.float32)
    for gradient in gradients:
        player.learn(policy, rollouts, np.array([1.0, -1.0, 0.5]), 0.01, gradient)
    assert gradients[0].any()
    np.testing.assert_array_equal(gradients[0], gradients[1])
    assert len(player.greedy(policy, [GraphWorkload(world.graph)])) == 1


def test_learns_to_beat_chance_and_the_untrained_policy():
    """Fast links and one CPU at half speed: splitting pays, up to a third of the time."""
    profile = two_cpus(blocks=None, dispatch=Dispatch(), latency_ns=500)
    backend, held_out = SimBackend(profile), trees(12, 9000, (3, 6))
    config = TrainConfig(seconds=None, episodes=6400, seed=0, validate_every=5)
    start = Policy.untrained()
    training, validation = trees(40, 0, (3, 6)), trees(8, 5000, (3, 6))
    result = train(backend, training, start, config, validation=validation)
    rewards = [Player(backend).greedy(policy, held_out) for policy in (start, result.policy)]
    assert rewards[1].mean() > rewards[0].mean() + 0.05
    assert rewards[1].mean() > math.log(1.3)
    trained = PolicyScheduler(result.policy)
    assert mean_log_ratio(trained, Random(0), held_out, profile) < math.log(0.8)
    assert result.history[-1]["episodes"] == 6400


def test_the_first_episode_which_compiles_is_not_on_the_budget(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(train_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    play, costs_s = Player.greedy, iter([100.0])

    def slow(self, *args, **kwargs):
        now_s[0] += next(costs_s, 1.0)
        return play(self, *args, **kwargs)

    monkeypatch.setattr(Player, "greedy", slow)
    config = TrainConfig(seconds=4.5, groups=1, rollouts=2, validate_every=1)
    result = train(SimBackend(two_cpus()), trees(2, 0), Policy.untrained(0), config)
    assert [line["seconds"] for line in result.history] == [1.0, 2.0, 3.0, 4.0]


def test_same_seed_same_weights():
    backend, workloads = SimBackend(two_cpus()), trees(4, 0, (3, 4))
    config = TrainConfig(seconds=None, episodes=64, groups=2, rollouts=4)
    first, second = (train(backend, workloads, Policy.untrained(), config) for _ in range(2))
    assert first.best_validation == second.best_validation
    for name, weight in first.policy.weights.items():
        np.testing.assert_array_equal(weight, second.policy.weights[name])


def test_resumes_from_a_checkpoint_with_its_optimizer(tmp_path):
    backend, workloads = SimBackend(two_cpus()), trees(4, 0, (3, 4))
    config = TrainConfig(seconds=None, episodes=32, groups=2, rollouts=4, validate_every=1)
    first = train(backend, workloads, Policy.untrained(), config).checkpoint
    save_checkpoint(tmp_path / "policy", first)
    loaded = load_checkpoint(tmp_path / "policy")
    assert loaded.optimizer.keys() == first.optimizer.keys()
    again = train(backend, workloads, loaded, config)
    assert again.checkpoint.training["episodes"] == 64
    assert again.best_validation >= first.training["validation"]


def test_a_run_that_is_cut_comes_to_the_same_weights(tmp_path):
    """Cut after each of its updates, saved, loaded and resumed."""
    backend, workloads = SimBackend(two_cpus()), trees(4, 0, (3, 4))
    config = TrainConfig(
        seconds=None, episodes=96, groups=2, rollouts=8, validate_every=1, keep="last"
    )
    kept = []
    whole = train(backend, workloads, Policy.untrained(), config, on_checkpoint=kept.append)
    assert len(kept) == 6
    for checkpoint in kept[:-1]:
        save_checkpoint(tmp_path / "policy", checkpoint)
        loaded = load_checkpoint(tmp_path / "policy")
        rest = train(backend, workloads, loaded, replace(config, resume=True))
        assert rest.checkpoint.training["updates"] == 6
        assert rest.checkpoint.training["episodes"] == 96
        for name, weight in whole.policy.weights.items():
            np.testing.assert_array_equal(weight, rest.policy.weights[name])
        for name, moment in whole.checkpoint.optimizer.items():
            np.testing.assert_array_equal(moment, rest.checkpoint.optimizer[name])


def test_random_worlds_depend_on_the_seed_alone():
    worlds = WorldConfig(ranges=Ranges(n_tasks=(4, 9), n_devices=(2, 3)), n_validation=3, reuse=2)
    config = TrainConfig(seconds=None, episodes=48, groups=2, rollouts=8, keep="last")
    results = [
        train_on_worlds(Policy.untrained(), replace(config, seed=seed), worlds)
        for seed in (1, 1, 2)
    ]
    first, second, other = (result.policy.weights["own"] for result in results)
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


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
        {"groups": 0},
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
