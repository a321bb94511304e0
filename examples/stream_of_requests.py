"""Send inputs as a stream of requests, faster and faster, and lose a GPU on the way."""

from statistics import quantiles

from dynpartition import Profile, TaskGraph
from dynpartition.agent.registry import make_scheduler
from dynpartition.conditions import GOOD_DAY, Conditions, Loss
from dynpartition.contract import Outcome, run
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend
from dynpartition.streams import (
    RequestStream,
    closed_loop,
    latencies_ns,
    open_stream,
    poisson_arrivals,
)

SCHEDULERS = ("best-single", "heft")


def send(stream: RequestStream, name: str, profile: Profile, conditions: Conditions) -> Outcome:
    return run(SimBackend(profile, conditions=conditions), stream, make_scheduler(name))


def describe(outcome: Outcome, host: str) -> str:
    latencies = latencies_ns(outcome.graph, outcome.trace, host).values()
    cuts = quantiles(latencies, n=20, method="inclusive")
    rate = len(latencies) * 1e9 / outcome.trace.makespan_ns
    return f"p50 {cuts[9] / 1e6:.2f} ms, p95 {cuts[18] / 1e6:.2f} ms, {rate:.0f} requests/s"


def poisson(graphs: list[TaskGraph], rate_per_s: float) -> RequestStream:
    return open_stream(graphs, poisson_arrivals(len(graphs), rate_per_s=rate_per_s, seed=0))


def main() -> None:
    profile = load_shipped("synthetic-cpu-2gpu")
    host = profile.cluster.host
    graphs = [item.graph for item in generate_inputs(build_model("treelstm"), 10, seed=0)]
    streams = {
        "poisson, 300 a second": poisson(graphs, 300),
        "poisson, 1500 a second": poisson(graphs, 1500),
        "2 clients that think 1 ms": closed_loop(graphs, clients=2, think_ns=1_000_000),
    }
    for title, stream in streams.items():
        print(title)
        for name in SCHEDULERS:
            print(f"  {name:<12} {describe(send(stream, name, profile, GOOD_DAY), host)}")

    print("poisson, 1500 a second; cuda:0 is lost after 4 ms")
    loss = Conditions(losses=(Loss("cuda:0", 4_000_000),))
    for name in SCHEDULERS:
        outcome = send(streams["poisson, 1500 a second"], name, profile, loss)
        wasted = len(outcome.trace.wasted)
        print(f"  {name:<12} {describe(outcome, host)}, {wasted} launches wasted")


if __name__ == "__main__":
    main()
