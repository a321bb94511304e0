"""A deployment that watches itself: whoever is faster on the machine as it is now plays.

What the guard has measured after fine-tuning may not last: inputs change, and machines do. So now
and then an input runs twice, once as the policy decides and once as a baseline does, and the ratio
of these times, decisions included, says who plays the inputs until the next such probe.
"""

from __future__ import annotations

from collections import deque
from math import log

import numpy as np

from dynpartition.contract import Backend, Outcome, Scheduler, Workload, run

PROBE_EVERY = 16
"""Inputs between two probes: what the second runs cost is a sixteenth."""
PROBES_KEPT = 8
"""Probes that count: of old ones nobody knows whether they are still true."""
PROBES_FIRST = 4
"""The first inputs are all probes."""


class Deployment:
    """Runs inputs on a backend as `policy` or as `baseline` decides, whoever has been faster."""

    def __init__(
        self,
        backend: Backend,
        policy: Scheduler,
        baseline: Scheduler,
        *,
        probe_every: int = PROBE_EVERY,
        seed: int = 0,
    ) -> None:
        self.policy, self.baseline = policy, baseline
        self._backend = backend
        self._probe_every = probe_every
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 11]))
        self._log_ratios: deque[float] = deque(maxlen=PROBES_KEPT)
        self._n_inputs = 0

    @property
    def plays(self) -> Scheduler:
        """Who decides the next input: the policy, unless the baseline was faster in the probes.

        The median of the probes counts, so that one disturbed run decides nothing.
        """
        slower = len(self._log_ratios) > 0 and float(np.median(self._log_ratios)) > 0
        return self.baseline if slower else self.policy

    def run(self, workload: Workload) -> Outcome:
        """Run one input; of a probe, return the outcome of who plays."""
        n, self._n_inputs = self._n_inputs, self._n_inputs + 1
        if n >= PROBES_FIRST and n % self._probe_every:
            return run(self._backend, workload, self.plays)
        plays, both = self.plays, [self.policy, self.baseline]
        outcomes: dict[int, Outcome] = {}
        for which in self._rng.permutation(2).tolist():  # who comes second finds warm caches
            outcomes[which] = run(self._backend, workload, both[which])
        self._log_ratios.append(log(_took_ns(outcomes[0]) / _took_ns(outcomes[1])))
        return outcomes[0 if plays is self.policy else 1]


def _took_ns(outcome: Outcome) -> int:
    return max(1, outcome.trace.makespan_ns + outcome.opening_decision_ns)
