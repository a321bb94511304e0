"""Short sentences about results."""

from __future__ import annotations

from collections.abc import Iterable

from dynpartition.cli.markup import count
from dynpartition.cli.words import printable
from dynpartition.cluster import Cluster
from dynpartition.conditions import Loss
from dynpartition.trace import Trace


def describe_trace(trace: Trace) -> str:
    """Return makespan and the numbers of launches, transfers and, where there are any, loads."""
    counts = [
        count(len(trace.launches), "launch", "launches"),
        count(len(trace.transfers), "transfer"),
        *([count(len(trace.loads), "load")] if trace.loads else []),
    ]
    return f"makespan {format_ms(trace.makespan_ns)}, {', '.join(counts)}"


def describe_load(trace: Trace, cluster: Cluster) -> str:
    """Return which share of the makespan each device was busy."""
    whole_ns = max(trace.makespan_ns, 1)
    shares = [f"{name} {100 * trace.busy_ns(name) / whole_ns:.0f} %" for name in cluster.names]
    return printable(f"busy: {', '.join(shares)}")


def describe_losses(trace: Trace, losses: Iterable[Loss]) -> str:
    """Return which devices were lost, and how much work was in vain."""
    lost = [f"{loss.device} at {format_ms(loss.at_ns)}" for loss in losses]
    wasted_ns = sum(span.end_ns - span.start_ns for span in trace.wasted)
    launches = count(len(trace.wasted), "launch", "launches")
    waste = f"wasted: {launches}, {format_ms(wasted_ns)} of work"
    return printable(f"lost: {', '.join(lost)}; {waste}")


def format_ms(duration_ns: int) -> str:
    """Return a duration in milliseconds with its unit."""
    return f"{duration_ns / 1e6:.3f} ms"
