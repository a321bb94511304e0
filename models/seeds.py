"""Random generators derived from one seed; none of them is global."""

from __future__ import annotations

import numpy as np

from dynpartition.errors import ModelError


def sample_rng(seed: int, index: int) -> np.random.Generator:
    """Return the random generator of sample `index`; ModelError for a negative seed."""
    return np.random.default_rng([checked_seed(seed), index])


def checked_seed(seed: int) -> int:
    """Return `seed`; ModelError when no generator takes it."""
    if not 0 <= seed < 2**63:
        raise ModelError(f"seed {seed} cannot be used; give a whole number from 0 to 2^63 - 1")
    return seed
