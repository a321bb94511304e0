"""Plans of shapes seen before: the same answers, and nothing done twice."""

import pytest
import torch

from dynpartition import Launch, parse_devices
from dynpartition.hardware import HardwareBackend, blueprint, graphs, lane
from dynpartition.hardware.kept import KeptPlans
from dynpartition.hardware.streams import FakeStreams
from dynpartition.models import ModelInput, ParseTree, build_model, generate_inputs


def with_words(tree, word):
    """Return a tree of the same shape with other words."""
    words = tuple(f"{word}{at}" if old else "" for at, old in enumerate(tree.words))
    return ParseTree(tree.labels, words, tree.left, tree.right)


@pytest.fixture
def model():
    return build_model("treelstm", {"input_dim": 5, "hidden_dim": 3})


@pytest.fixture
def lowered(monkeypatch):
    """Count how many plans are lowered."""
    count, original = [], blueprint.lower_quickly

    def counting(*arguments):
        count.append(1)
        return original(*arguments)

    monkeypatch.setattr(blueprint, "lower_quickly", counting)
    return count


def answer(backend, model, tree, devices):
    with backend.open(ModelInput(model, tree)) as session:
        tasks = range(len(session.graph))
        session.advance([Launch(devices[t % len(devices)], (t,)) for t in tasks])
        torch.testing.assert_close(session.answer(), model.eager(tree))
        return session.trace


@pytest.mark.parametrize("spec", ["cpu:0", "cpu:0,cpu:1", "cpu:0,cuda:0"])
def test_other_words_in_a_shape_seen_before(model, lowered, spec):
    tree = generate_inputs(model, 1, seed=3)[0].sample
    devices = spec.split(",")
    with HardwareBackend(model, parse_devices(spec), streams=FakeStreams(seed=2)) as backend:
        for word in "abcde":
            trace = answer(backend, model, with_words(tree, word), devices)
            assert len(trace.launches) == 2 * len(tree)
        assert len(lowered) == 1
        answer(backend, model, tree, devices[::-1])  # the same shape, planned otherwise
        answer(backend, model, tree, devices[::-1])
        assert len(lowered) == (2 if len(devices) > 1 else 1)


def test_more_shapes_than_are_kept(model, monkeypatch):
    trees = [one.sample for one in generate_inputs(model, 9, seed=5)]
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1")) as backend:
        backend._plans = KeptPlans(3)
        for _ in range(2):
            for tree in trees:
                answer(backend, model, tree, ["cpu:0", "cpu:1"])
                answer(backend, model, with_words(tree, "x"), ["cpu:0", "cpu:1"])
        assert len(backend._plans) == 3
        numbers = sorted(kept.segments[0].number for kept in backend._plans._plans.values())
        assert numbers == [1, 2, 3]


def test_large_plans_are_not_kept(model, lowered, monkeypatch):
    monkeypatch.setattr("dynpartition.hardware.kept.TASKS_MAX", 5)
    tree = generate_inputs(model, 1, seed=3)[0].sample
    with HardwareBackend(model, parse_devices("cpu:0")) as backend:
        for _ in range(2):
            answer(backend, model, tree, ["cpu:0"])
    assert len(lowered) == 2


def test_calls_are_prepared_again_once_they_have_been_captured(model, monkeypatch):
    prepared, original = [], graphs.GraphCache.launches

    def counting(self, runs, place):
        prepared.append(1)
        return original(self, runs, place)

    monkeypatch.setattr(graphs.GraphCache, "launches", counting)
    tree = generate_inputs(model, 1, seed=3)[0].sample
    with HardwareBackend(model, parse_devices("cpu:0,cuda:0"), streams=FakeStreams()) as backend:
        for _ in range(4):
            answer(backend, model, tree, ["cuda:0"])
    assert len(prepared) == 2


def test_a_worker_prepares_a_segment_once(model, monkeypatch):
    """On the host's own lane, which is the same class as a worker's."""
    prepared, original = [], lane.CpuLane._prepared

    def counting(self, runs):
        prepared.append(len(runs))
        return original(self, runs)

    monkeypatch.setattr(lane.CpuLane, "_prepared", counting)
    tree = generate_inputs(model, 1, seed=3)[0].sample
    with HardwareBackend(model, parse_devices("cpu:0")) as backend:
        for _ in range(3):
            answer(backend, model, tree, ["cpu:0"])
    assert prepared == [2 * len(tree)]
