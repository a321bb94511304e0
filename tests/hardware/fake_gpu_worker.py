"""The worker of a GPU of another host, with a stand-in for CUDA, for `two_hosts.py`."""

from dynpartition.hardware import FakeStreams
from dynpartition.hardware.gpu_worker import serve_gpu
from dynpartition.hardware.worker import run_worker

if __name__ == "__main__":
    run_worker(lambda channel, setup: serve_gpu(channel, setup, FakeStreams(1, seed=3)))
