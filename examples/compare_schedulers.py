"""Compare schedulers in the simulator: a TreeLSTM on generated parse trees, a shipped profile."""

from statistics import geometric_mean

from dynpartition import run
from dynpartition.agent.registry import make_scheduler
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend

NAMES = ("single:cpu:0", "single:cuda:0", "best-single", "round-robin", "split-left-right", "heft")
INPUTS = 8


def main() -> None:
    model = build_model("treelstm")
    inputs = generate_inputs(model, INPUTS, seed=0)
    backend = SimBackend(load_shipped("synthetic-cpu-2gpu"))
    tasks = [len(item.graph) for item in inputs]
    print(f"{INPUTS} trees of {min(tasks)} to {max(tasks)} tasks; makespans in µs")

    table = {
        name: [run(backend, item, make_scheduler(name)).trace.makespan_ns for item in inputs]
        for name in NAMES
    }
    reference = table["best-single"]
    for name, makespans in table.items():
        ratios = [ns / best for ns, best in zip(makespans, reference, strict=True)]
        shown = " ".join(f"{ns / 1e3:>5.0f}" for ns in makespans)
        print(f"{name:<17} {shown}   × best single {geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
