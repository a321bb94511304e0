"""Known parameters are recovered from noisy and spoilt observations, with honest intervals."""

from __future__ import annotations

import numpy as np
import pytest

from dynpartition.calibration.fit import fit_profile
from dynpartition.calibration.refitting import numbers_in
from tests.calibration.synthetic import CLUSTER, machine, spoil

MACHINES, LAUNCHES, MOVES = 100, 4000, 2000
"""Of two devices each."""


@pytest.fixture(scope="module")
def recovered() -> list[tuple[str, float, float, bool]]:
    """Per parameter of all machines: path, relative error in the profile, in the list, covered."""
    rows = []
    for seed in range(MACHINES):
        rng = np.random.default_rng(np.random.SeedSequence([7, seed]))
        made = machine(rng, LAUNCHES, MOVES)
        spoil(made, rng, 0.01)
        fitted = fit_profile(CLUSTER, made.seen)
        assert dict(fitted.wrong) == dict(sorted(made.bad.items()))
        held = numbers_in(fitted.profile)
        for path, truth in made.truth.items():
            number = fitted.numbers[path]
            assert number.low is not None
            assert number.high is not None
            covered = number.low <= truth <= number.high
            rows.append((path, held[path] / truth - 1, number.value / truth - 1, covered))
    return rows


def test_nearly_all_parameters_are_within_2_percent_and_all_within_6(recovered) -> None:
    errors = np.abs([error for _, error, _, _ in recovered])
    assert len(errors) > 3000
    assert np.mean(errors <= 0.02) >= 0.95
    assert errors.max() <= 0.06


def test_what_the_file_lists_is_what_the_profile_holds(recovered) -> None:
    assert max(abs(held - listed) for _, held, listed, _ in recovered) < 2e-3


def test_intervals_cover_as_often_as_they_say(recovered) -> None:
    covered = np.array([covered for *_, covered in recovered])
    assert 0.90 <= covered.mean() <= 0.99
    kinds = np.array([path.partition("/")[0] for path, *_ in recovered])
    for kind in sorted(set(kinds.tolist())):
        assert covered[kinds == kind].mean() >= 0.85, kind
