"""Build a graph, a profile and a plan in Python, simulate the plan, and print what happened."""

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    Launch,
    Link,
    Plan,
    Profile,
    Task,
    TaskGraph,
)
from dynpartition.sim import simulate


def build_graph() -> TaskGraph:
    """Two pairs of leaves, a composer for each pair, and a root that returns its output.

    0 ─┐
    1 ─┴─► 4 ─┐
    2 ─┐      ├─► 6
    3 ─┴─► 5 ─┘
    """
    leaves = [Task(id=n, cell="leaf", output_bytes=1200, host_bytes=1200) for n in range(4)]
    inner = [
        Task(id=4, cell="composer", inputs=(0, 1), output_bytes=1200),
        Task(id=5, cell="composer", inputs=(2, 3), output_bytes=1200),
        Task(id=6, cell="composer", inputs=(4, 5), output_bytes=1200, returns=True),
    ]
    return TaskGraph.from_tasks("two pairs", [Cell("leaf"), Cell("composer")], leaves + inner)


def build_profile() -> Profile:
    """A CPU and a GPU that one thread on the CPU drives; batches of four leaves cost 1.5 times."""
    cost = AffineCost(latency_ns=6_000, bandwidth_bytes_per_s=12 * 10**9)
    links = (Link("cpu:0", "cuda:0", cost), Link("cuda:0", "cpu:0", cost))
    devices = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda"))
    cells = {
        "leaf": {
            "cpu:0": Curve(batch=(1, 4), duration_ns=(30_000, 45_000)),
            "cuda:0": Curve(batch=(1, 4), duration_ns=(8_000, 12_000)),
        },
        "composer": {
            "cpu:0": Curve(batch=(1,), duration_ns=(60_000,)),
            "cuda:0": Curve(batch=(1,), duration_ns=(12_000,)),
        },
    }
    dispatch = Dispatch(host_mode="single", h=5_000, h_copy=2_000)
    return Profile(Cluster(devices, links), cells, dispatch)


def build_plan() -> Plan:
    """The left pair on the GPU as a batch, the right pair on the CPU, the root on the GPU."""
    return Plan(
        (
            Launch("cuda:0", (0, 1)),
            Launch("cuda:0", (4,)),
            Launch("cpu:0", (2, 3)),
            Launch("cpu:0", (5,)),
            Launch("cuda:0", (6,)),
        )
    )


def main() -> None:
    trace = simulate(build_graph(), build_profile(), build_plan())
    print("launches")
    for span in trace.launches:
        tasks = ",".join(map(str, span.tasks))
        print(f"  {span.device:<8} tasks {tasks:<5} {span.start_ns:>7} → {span.end_ns:>7} ns")
    print("transfers")
    for move in trace.transfers:
        what = "input of" if move.host_input else "output of"
        tasks = ",".join(map(str, move.tasks))
        route = f"{move.src}→{move.dst}"
        print(
            f"  {route:<14} {what:<9} {tasks:<4} {move.bytes} bytes"
            f" {move.start_ns:>7} → {move.end_ns:>7} ns"
        )
    print(f"makespan {trace.makespan_ns} ns")


if __name__ == "__main__":
    main()
