"""Where numbers come from: machine, versions, time."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

LIBRARIES = ("torch", "numpy", "simpy", "gymnasium")


def library_versions() -> dict[str, str]:
    """Return the versions of this package, Python, and the libraries that results depend on."""
    import dynpartition

    libraries = {name: version(name) for name in LIBRARIES}
    return {
        "dynpartition": dynpartition.__version__,
        "python": platform.python_version(),
    } | libraries


def measured_here(model: str, seed: int) -> dict[str, object]:
    """Return the provenance of a profile that is measured on this machine now."""
    from dynpartition.hardware.devices import cpu_name

    return {
        "origin": "measured",
        "model": model,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "pinned": hasattr(os, "sched_setaffinity"),
        "run_delay_filtered": os.path.exists("/proc/self/schedstat"),
        "versions": library_versions(),
    }
