"""Observations: features of every candidate, a (ready task, device) pair.

B episodes, R ready tasks shown, D devices, K = R·D candidates, F features. Times are divided by the
graph's mean task cost, and most are compressed by 4x / (4 + x), which is close to log(1 + x), so
that graphs of any size, machines of any speed and any number of devices look alike. No feature is a
task's or a device's number. Everything comes from the revealed graph, the profile and the plan so
far. `dynpartition.agent.env_kernel` computes them, `dynpartition.agent.batch` is how to ask.

Candidate r·D + d places the r-th shown task in a launch of its own on device d. With batching there
are R candidates more: R·D + r lets it join the open launch, the one placed last, where it has the
same cell and none of its inputs is in that launch. A join is timed as the launch that would come of
it: on the batch curve of the profile, with the inputs of all its tasks. Like any candidate it is
looked at as if no other transfers were to come; and outputs of a launch that go to one device are
estimated as transfers of their own, while a run sends them together.
"""

from __future__ import annotations

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

BATCH_FEATURES = (
    "joins",  # 1 where the task joins the open launch
    "together",  # how many tasks that launch has
    "delay",  # by how much later it ends
    "saved",  # about the log of what it grows by over what the task takes alone on the device
    "mates",  # other ready tasks of the cell
    "next",  # about the log of what one of them adds to the launch over what it takes alone
)
"""Names of those that follow with batching; the first four are 0 for launches of their own.

What is above tells of a join: of the launch that would come of it when it starts and ends, in
"duration" and "slower" what it grows by.
"""


def features_of(*, batching: bool) -> tuple[str, ...]:
    """Return the names of the features of an observation, in order."""
    return (*FEATURES, *BATCH_FEATURES) if batching else FEATURES


FEATURE_VERSION = 2
"""Grows whenever a feature changes its meaning; checkpoints of other versions are refused."""

BOUND = 8.0
"""No feature is beyond ±BOUND."""
