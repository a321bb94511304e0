"""Write a scheduler, check that it keeps the contract, and run it in the simulator."""

from collections.abc import Sequence

from dynpartition import Launch, Plan, Profile, Scheduler, TaskGraph, run
from dynpartition.agent.conformance import check_scheduler
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.registry import make_scheduler
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend


class StayClose(Scheduler):
    """Each task where its first input was made, unless it ends much earlier somewhere else.

    `PartialPlan` knows which tasks are ready, which devices are legal (absent links, cells that a
    device cannot run) and when a task would start and end, by the schedulers' own estimate.
    """

    name = "stay-close"

    def __init__(self, gain_ns: int) -> None:
        self.gain_ns = gain_ns
        """A task moves when it ends earlier by more than this."""

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return a launch for every revealed task that is not planned yet."""
        partial = PartialPlan.of(graph, profile, planned)
        while partial.ready:
            task = partial.ready[0]
            partial.place(task, self._device(partial, task))
        return partial.take_launches()

    def _device(self, partial: PartialPlan, task: int) -> int:
        best = partial.earliest(task)
        inputs = partial.graph.input_lists[task]
        if not inputs:
            return best
        home = partial.estimate.device_of(inputs[0])
        options = partial.legal_options(task)
        stays = home in options and options[home][1] - options[best][1] <= self.gain_ns
        return home if stays else best


def main() -> None:
    scheduler = StayClose(gain_ns=20_000)
    print(f"{scheduler.name} serves {check_scheduler(scheduler)} small worlds")

    backend = SimBackend(load_shipped("synthetic-cpu-2gpu"))
    for item in generate_inputs(build_model("treelstm"), 4, seed=0):
        rivals = [make_scheduler("best-single"), scheduler]
        times = [run(backend, item, rival).trace.makespan_ns for rival in rivals]
        shown = ", ".join(
            f"{rival.name} {ns / 1e3:.0f} µs" for rival, ns in zip(rivals, times, strict=True)
        )
        print(f"{len(item.graph)} tasks: {shown}")


if __name__ == "__main__":
    main()
