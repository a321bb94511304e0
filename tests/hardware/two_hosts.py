"""What torchrun starts on two ranks for `test_hosts.py`; rank 0 writes what it saw as JSON."""

import faulthandler
import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from dynpartition import drive, parse_devices
from dynpartition.calibration.probe import Chain, Probe, ProbeConfig
from dynpartition.contract import Scheduler
from dynpartition.errors import DynPartitionError
from dynpartition.hardware import FakeStreams, HardwareBackend, host_server, hosts
from dynpartition.models import ModelInput, build_model, generate_inputs, merge_inputs, run_eagerly
from dynpartition.plan import Launch
from dynpartition.validator import find_violations

DEVICES = "cpu:0,host1/cpu:0"
MORE_DEVICES = "cpu:0,cpu:1,host1/cpu:0,host1/cpu:1,host1/cuda:0"
CONNECTED_DEVICES = "cpu:0,cuda:0,host1/cuda:0"
GPU_WORKER = "fake_gpu_worker"
GPU_DEVICES = "cpu:0,cuda:0,host1/cpu:0,host1/cuda:0"
SIZES = {"treelstm": {"input_dim": 24, "hidden_dim": 12}, "moe": {"width": 32}}
TOLERANCE_NS = 20_000_000
"""Clocks of hosts agree to half of a round trip; on a busy machine that is milliseconds."""


class Anyhow(Scheduler):
    """Any legal plan: a random order, random devices, random merging of like tasks."""

    name = "anyhow"

    def __init__(self, seed, on_ask=lambda: None):
        self.dice, self.on_ask = random.Random(seed), on_ask

    def schedule(self, graph, profile, planned):
        self.on_ask()
        done = {task for launch in planned.launches for task in launch.tasks}
        linked = {link.src for link in profile.cluster.links} | {profile.cluster.host}
        names = [name for name in profile.cluster.names if name in linked]
        launches = []
        while len(done) < len(graph):
            ready = [t for t in range(len(graph)) if t not in done and is_ready(graph, t, done)]
            first = self.dice.choice(ready)
            alike = [t for t in ready if graph.cell_of[t] == graph.cell_of[first] and t != first]
            more = self.dice.sample(alike, self.dice.randint(0, len(alike)))
            launches.append(Launch(self.dice.choice(names), (first, *more)))
            done.update(launches[-1].tasks)
        return launches


def is_ready(graph, task, done):
    revealer = int(graph.revealed_by[task])
    return all(i in done for i in graph.input_lists[task]) and (revealer < 0 or revealer in done)


def play(backend, workload, scheduler):
    """Return whether the answers are the eager ones, what ran where, and what is wrong."""
    with backend.open(workload) as session:
        outcome = drive(session, scheduler, backend.profile)
        answers, lost = session.answers(), dict(session.lost)
    parts = getattr(workload, "inputs", [workload])
    equal = all(
        torch.allclose(answer, run_eagerly(one), rtol=1e-4, atol=1e-5)
        for one, answer in zip(parts, answers, strict=True)
    )
    wrong = find_violations(
        *(outcome.graph, backend.profile, outcome.plan, outcome.trace), tolerance_ns=TOLERANCE_NS
    )
    return {
        "equal": equal,
        "devices": sorted({launch.device for launch in outcome.plan.launches}),
        "transfers": len(outcome.trace.transfers),
        "pairs": sorted({f"{span.src} {span.dst}" for span in outcome.trace.transfers}),
        "zero": sum(span.end_ns <= span.start_ns for span in outcome.trace.transfers),
        "wrong": [] if lost else wrong,
        "lost": lost,
    }


def children_of(pid, part):
    """Return the children of a process that run a module whose name ends so."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    words = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, line in words.items() if f"{part}\0".encode() in line]


def worker_of(rank_pid):
    """Return the process that runs the device of another rank of this machine."""
    (worker,) = children_of(rank_pid, "hardware.worker")
    return worker


def rank_one():
    """Return the process of rank 1, a child of torchrun like this one."""
    agent = os.getppid()
    for task in Path(f"/proc/{agent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes().replace(b"LOCAL_", b"L"):
                return int(child)
    raise AssertionError("torchrun has no other child")


def answers(found):
    """Random plans of a tree, alone and several at once; then the GPU dies in a run."""
    model = build_model("treelstm", SIZES["treelstm"])
    inputs = generate_inputs(model, 6, seed=1)

    with HardwareBackend(model, parse_devices(MORE_DEVICES)) as backend:
        runs = [play(backend, inputs[seed % 6], Anyhow(seed)) for seed in range(6)]
        found["treelstm"] = [*runs, play(backend, merge_inputs(inputs[:3]), Anyhow(9))]
        found["GPU killed"] = play(backend, inputs[0], Anyhow(0, kill_gpu))


def kill_gpu():
    """End the worker of the GPU of the other rank; none is there when asked after a loss."""
    for gpu in children_of(rank_one(), GPU_WORKER):
        os.kill(gpu, signal.SIGKILL)


def connected(found):
    """Random plans on stand-ins for GPUs that are connected; then one dies in a run."""
    for name in SIZES:
        model = build_model(name, SIZES[name])
        inputs = generate_inputs(model, 4, seed=6)
        more = {"gpu_links": "nccl", "streams": FakeStreams(1, seed=8)}
        with HardwareBackend(model, parse_devices(CONNECTED_DEVICES), **more) as backend:
            found[f"connected {name}"] = [
                play(backend, inputs[seed % 4], Anyhow(seed)) for seed in range(6)
            ]
            found[f"connected {name} killed"] = [
                play(backend, inputs[0], Anyhow(0, kill_gpu)),
                *[play(backend, inputs[seed % 4], Anyhow(seed)) for seed in range(3)],
            ]


def reveals_and_losses(found, file):
    """A model that reveals tasks; then the other host's worker dies in a run, then its rank."""
    model = build_model("moe", SIZES["moe"])
    items = generate_inputs(model, 3, seed=2)
    asked = []

    def kill():
        asked.append(0)
        if len(asked) == 2:
            os.kill(worker_of(rank_one()), signal.SIGKILL)

    with HardwareBackend(model, parse_devices(DEVICES)) as backend:
        found["moe"] = [play(backend, items[seed % 3], Anyhow(seed)) for seed in range(6)]
        found["killed"] = play(backend, items[0], Anyhow(0, kill))
        found["after"] = [play(backend, items[0], Anyhow(seed)) for seed in range(4)]
        Path(file).write_text(json.dumps(found))
        os.kill(rank_one(), signal.SIGKILL)
        for seed in range(5000):  # torchrun ends us before that
            found["alone"] = play(backend, items[0], Anyhow(seed))
            Path(file).write_text(json.dumps(found))


def bad_starts(found):
    """The other rank does not answer at first; then it answers, and has another version."""
    model = build_model("moe", SIZES["moe"])
    for name, limit_s in (("late", 0.5), ("strange", 60.0)):
        try:
            HardwareBackend(model, parse_devices(DEVICES), answer_timeout_s=limit_s).close()
        except DynPartitionError as error:
            found[name] = str(error), len(children_of(os.getpid(), "relay"))
        hosts.store().set(name, "")


def serve_badly_at_first():
    """What the other rank does meanwhile, and then serve as it should."""
    same, asked = host_server.versions, []

    def versions():
        asked.append(0)
        return same() if len(asked) > 1 else "dynpartition 0.0.1"

    hosts.store().wait(["late"])
    host_server.versions = versions
    hosts.serve(GPU_WORKER)


def mistakes(found):
    model = build_model("moe", SIZES["moe"])
    for devices in ("cpu:0,host2/cpu:0", "host1/cpu:0", "cpu:0,host1/cuda:7"):
        try:
            HardwareBackend(model, parse_devices(devices))
        except DynPartitionError as error:
            found[devices] = str(error)


def shaped(file):
    """Move outputs of 1 MiB to the other host and back."""
    model, length = Probe(ProbeConfig()), 262_144
    item = ModelInput(model, (Chain(f"carry_{length}", length, 4),) * 2)
    with HardwareBackend(model, parse_devices(DEVICES)) as backend:
        moved = []
        for seed in range(2):
            with backend.open(item) as session:
                trace = drive(session, Anyhow(seed), backend.profile).trace
            moved += [(span.bytes, span.end_ns - span.start_ns) for span in trace.transfers]
    Path(file).write_text(json.dumps(moved))


def real_gpus(file, devices, **more):
    """Random plans on GPUs; there is no stand-in here."""
    found = {}
    for name in SIZES:
        model = build_model(name, SIZES[name])
        items = generate_inputs(model, 3, seed=4)
        with HardwareBackend(model, parse_devices(devices), **more) as backend:
            found[name] = [play(backend, items[seed % 3], Anyhow(seed)) for seed in range(6)]
    Path(file).write_text(json.dumps(found))


def main(file):
    found = {}
    bad_starts(found)
    mistakes(found)
    answers(found)
    connected(found)
    reveals_and_losses(found, file)


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    parts = {
        "shaped": shaped,
        "gpu": partial(real_gpus, devices=GPU_DEVICES),
        "nccl": partial(real_gpus, devices=CONNECTED_DEVICES, gpu_links="nccl"),
    }
    part = parts.get(sys.argv[-1])
    if sys.argv[-1] == "nccl":  # a GPU for each rank: NCCL does not connect one with itself
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["LOCAL_RANK"]
    if hosts.world().rank:
        hosts.serve() if part else serve_badly_at_first()
    elif part:
        try:
            part(sys.argv[1])
        finally:
            hosts.release()
    else:
        main(sys.argv[1])
