"""Short sentences about results."""

from __future__ import annotations

from dynpartition.cli.words import printable
from dynpartition.cluster import Cluster
from dynpartition.trace import Trace


def describe_trace(trace: Trace) -> str:
    """Return makespan and the numbers of launches and transfers."""
    return (
        f"makespan {format_ms(trace.makespan_ns)}, {len(trace.launches)} launches,"
        f" {len(trace.transfers)} transfers"
    )


def describe_load(trace: Trace, cluster: Cluster) -> str:
    """Return which share of the makespan each device was busy."""
    whole_ns = max(trace.makespan_ns, 1)
    shares = [f"{name} {100 * trace.busy_ns(name) / whole_ns:.0f} %" for name in cluster.names]
    return printable(f"busy: {', '.join(shares)}")


def format_ms(duration_ns: int) -> str:
    """Return a duration in milliseconds with its unit."""
    return f"{duration_ns / 1e6:.3f} ms"
