"""The split by content: stable, disjoint, and the same for equal inputs."""

from __future__ import annotations

import pytest

from dynpartition.errors import InputError
from dynpartition.models import ModelInput, build_model, generate_inputs
from dynpartition.models.splitting import part_of, select


def test_parts_are_disjoint_and_complete() -> None:
    inputs = generate_inputs(build_model("treelstm"), 400, 3)
    parts = [select(inputs, part) for part in ("train", "validation", "test")]
    digests = [{item.digest for item in part} for part in parts]
    assert sum(map(len, parts)) == len(inputs)
    assert (
        not digests[0] & digests[1] and not digests[0] & digests[2] and not digests[1] & digests[2]
    )
    shares = [len(part) / len(inputs) for part in parts]
    assert shares == pytest.approx([0.6, 0.15, 0.25], abs=0.08)


def test_identical_inputs_are_never_on_both_sides() -> None:
    model = build_model("treelstm")
    for item in generate_inputs(model, 50, 4):
        again = ModelInput(model, item.sample)
        assert part_of(again.digest) == part_of(item.digest)


def test_an_empty_part_is_an_error() -> None:
    item = generate_inputs(build_model("treelstm"), 1, 0)[0]
    other = {"train": "test", "validation": "test", "test": "train"}[part_of(item.digest)]
    with pytest.raises(InputError, match="give more inputs"):
        select([item], other)
