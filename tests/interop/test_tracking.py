"""Metrics arrive where they should, and what is not installed is one clear error."""

from __future__ import annotations

import json
import sys
import types

import pytest

from dynpartition.__main__ import main
from dynpartition.errors import UsageError
from dynpartition.interop.tracking import TensorBoardTracker, WandbTracker, tracking

METRICS = [{"update": n, "reward": n / 4, "episodes": 10.0 * n} for n in range(1, 4)]


def curves_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})  # all of them
    events.Reload()
    return {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_reads_every_metric(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    with tracking(["tensorboard", "tensorboard"], tmp_path) as trackers:
        assert [type(tracker) for tracker in trackers] == [TensorBoardTracker]
        for metrics in METRICS:
            trackers[0](metrics)
    assert curves_of(tmp_path / "tensorboard") == {
        "training/reward": [(1, 0.25), (2, 0.5), (3, 0.75)],
        "training/episodes": [(1, 10.0), (2, 20.0), (3, 30.0)],
    }


@pytest.fixture
def wandb(monkeypatch):
    """A module with the three calls of wandb that are used; it notes them."""
    said = []

    class Run:
        def log(self, values, step):
            said.append((step, values))

        def finish(self):
            said.append("finished")

    module = types.ModuleType("wandb")
    module.init = lambda **settings: said.append(settings) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return said


def test_weights_and_biases_gets_every_metric(tmp_path, wandb):
    with WandbTracker(tmp_path / "wandb", project="mine", mode="offline") as tracker:
        for metrics in METRICS:
            tracker(metrics)
    assert wandb == [
        {"project": "mine", "dir": str(tmp_path / "wandb"), "mode": "offline"},
        *((n, {"reward": n / 4, "episodes": 10.0 * n}) for n in range(1, 4)),
        "finished",
    ]


def test_a_run_is_finished_when_training_fails(tmp_path, wandb):
    with pytest.raises(KeyError), tracking(["wandb"], tmp_path):
        raise KeyError
    assert wandb[-1] == "finished"


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_library_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    for module in ("tensorboard.summary", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(UsageError, match=rf"pip install 'dynpartition\[{name}\]'"),
        tracking([name], tmp_path),
    ):
        pass


def test_other_names_are_refused(tmp_path):
    with (
        pytest.raises(UsageError, match="'tensorbord'; did you mean 'tensorboard'"),
        tracking(["tensorbord"], tmp_path),
    ):
        pass


def test_pretrain_tracks_what_the_run_folder_holds(tmp_path, monkeypatch, wandb):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    monkeypatch.chdir(tmp_path)
    command = ["pretrain", "--profile", "synthetic-cpu-2gpu", "--inputs", "8", "--seconds", "0.5"]
    assert main([*command, "--out", "run", "--track", "tensorboard", "wandb"]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    curve = curves_of(tmp_path / "run" / "tensorboard")["training/reward"]
    assert curve == [(m["update"], pytest.approx(m["reward"], rel=1e-6)) for m in metrics]
    assert [step for step, _ in wandb[1:-1]] == [m["update"] for m in metrics]
