"""Checkpoints: what is saved comes back, what is damaged is refused."""

import json

import numpy as np
import pytest

from dynpartition.agent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dynpartition.agent.policy import Policy
from dynpartition.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    policy = Policy.untrained(7)
    save_checkpoint(tmp_path / "a", Checkpoint(policy, moments(policy), {"episodes": 5}))
    return tmp_path / "a"


def moments(policy):
    arrays = {}
    for name, weight in policy.weights.items():
        arrays[f"{name}.step"] = np.float32(3)
        arrays[f"{name}.exp_avg"] = -weight
        arrays[f"{name}.exp_avg_sq"] = weight**2
    return arrays


def test_round_trip(folder):
    loaded = load_checkpoint(folder)
    for name, weight in Policy.untrained(7).weights.items():
        np.testing.assert_array_equal(loaded.policy.weights[name], weight)
    assert loaded.training == {"episodes": 5}
    assert loaded.optimizer.keys() == moments(Policy.untrained(7)).keys()


def test_replaces_what_was_there_and_leaves_nothing_behind(folder):
    save_checkpoint(folder, Checkpoint(Policy.untrained(8)))
    assert load_checkpoint(folder).training == {}
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_a_save_that_stops_between_its_renames_loses_nothing(folder, monkeypatch):
    rename = type(folder).rename

    def stopping_rename(path, target):
        if target == folder:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", stopping_rename)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, Checkpoint(Policy.untrained(8)))
    assert not folder.exists()
    assert load_checkpoint(folder).training == {"episodes": 5}
    monkeypatch.undo()
    save_checkpoint(folder, Checkpoint(Policy.untrained(8)))
    assert load_checkpoint(folder).training == {}
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["policy.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("position", [0, 9, -1])
def test_every_flipped_byte_is_noticed(folder, name, position):
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        load_checkpoint(folder)


def test_truncated_and_absent_files(folder):
    path = folder / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format", "other", "is no dynpartition-checkpoint"),
        ("version", 1, "version is 1"),
        ("feature_version", 0, "feature_version is 0"),
        ("features", ["wait"], "features is"),
        ("styles", 2, "its manifest promises"),
        ("styles", "4", "styles is '4'"),
        ("styles", 0, "styles is 0"),
        ("sha256", None, "damaged"),
        ("training", 3, "training is not an object"),
    ],
)
def test_other_manifests_are_refused(folder, key, value, says):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[key] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_damaged_manifest(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="manifest"):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    policy = Policy.untrained()
    policy.weights["own"] = policy.weights["own"] * np.nan
    save_checkpoint(tmp_path / "b", Checkpoint(policy))
    with pytest.raises(CheckpointError, match="must be finite"):
        load_checkpoint(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_bias.step": None}, "does not belong"),
        ({"embed_bias.exp_avg": np.zeros(3, np.float32)}, "does not belong"),
        ({"embed_bias.exp_avg_sq": np.full(16, -1, np.float32)}, "negative square"),
        ({"embed_bias.exp_avg": np.full(16, np.nan, np.float32)}, "must be finite"),
    ],
)
def test_moments_of_another_optimizer_are_refused(tmp_path, change, message):
    policy = Policy.untrained()
    arrays = {name: a for name, a in (moments(policy) | change).items() if a is not None}
    save_checkpoint(tmp_path / "a", Checkpoint(policy, arrays))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a")


def test_a_manifest_of_brackets_is_damaged(folder):
    (folder / "manifest.json").write_text("[" * 10**6)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)
