"""Observations: features of every candidate, a (ready task, device) pair.

B episodes, R ready tasks shown, D devices, K = R·D candidates, F features. Times are divided by the
graph's mean task cost, and most are compressed by 4x / (4 + x), which is close to log(1 + x), so
that graphs of any size, machines of any speed and any number of devices look alike. No feature is a
task's or a device's number. Everything comes from the revealed graph, the profile and the plan so
far. `dynpartition.agent.env_kernel` computes them, `dynpartition.agent.batch` is how to ask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynpartition.types import FloatArray

FEATURES = (
    "wait",  # idle time of the device before the task starts
    "start_lag",  # start behind the earliest start among the candidates
    "finish_lag",  # finish behind the earliest finish of this task
    "finishes_first",  # 1 where this device finishes the task first
    "rise",  # by how much the latest end grows
    "rank_lead",  # upward rank over the largest among the candidates
    "path",  # about the log of (finish + rank below) over the longest such path shown
    "load",  # the device's free time minus the mean of the devices
    "work_left",  # share of the work not placed yet
    "near_here",  # of the placed tasks that the next reader depends on, the share on the device
    "far_here",  # the same three readers up
    "near_placed",  # share of what the next reader depends on that is placed
    "duration",
    "slower",  # about the log of duration over the fastest legal device's
    "rank",  # upward rank over the largest of the graph
    "move_in",  # wait for inputs compared with the device where they are first
    "local_inputs",  # share of the inputs made on the device
    "move_out",  # mean transfer time of the output
    "readers",
    "slowness",  # log of the device's mean duration over the fastest
)
"""Names of the features, in order."""

FEATURE_VERSION = 2
"""Grows whenever a feature changes its meaning; checkpoints of other versions are refused."""

BOUND = 8.0
"""No feature is beyond ±BOUND."""


@dataclass(frozen=True)
class Observation:
    """What a policy sees. `features`: float32 (B, K, F), `mask`: int8 (B, K), 1 = legal."""

    features: FloatArray
    mask: npt.NDArray[np.int8]
