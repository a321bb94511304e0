"""Really runs plans: CPU devices as worker processes, CUDA devices as streams.

Axis letters: k tasks of one launch that are computed as one batch. Offsets are bytes from the
start of a device's arena.
"""

from dynpartition.hardware.backend import HardwareBackend
from dynpartition.hardware.session import HardwareSession
from dynpartition.hardware.streams import FakeStreams, StreamApi

__all__ = ["FakeStreams", "HardwareBackend", "HardwareSession", "StreamApi"]

if __name__ != "dynpartition.hardware":
    raise ImportError("import dynpartition.hardware, not hardware")
