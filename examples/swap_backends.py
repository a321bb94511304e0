"""One environment class, two backends: same choices, same observations, same plan.

The simulator and two CPU devices of this machine: this process and one worker process.
Observations come from the graph, the profile and the plan so far, never from a backend's clock.
"""

from dataclasses import dataclass

import numpy as np

from dynpartition import (
    AffineCost,
    Backend,
    Cluster,
    Curve,
    Dispatch,
    Link,
    Plan,
    Profile,
    parse_devices,
)
from dynpartition.agent.env import EnvObservation, PlacementEnv
from dynpartition.agent.observe import FEATURES
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput, build_model, generate_inputs
from dynpartition.sim import SimBackend

DEVICES = parse_devices("cpu:0,cpu:1")


def invented_profile() -> Profile:
    """Costs of the TreeLSTM's cells on two CPUs; `dynpartition calibrate` would measure them."""
    cost = AffineCost(latency_ns=2_000, bandwidth_bytes_per_s=10**10)
    links = (
        Link("cpu:0", "cpu:1", cost, blocks="src"),
        Link("cpu:1", "cpu:0", cost, blocks="src"),
    )
    duration_ns = {"leaf": 20_000, "composer": 40_000, "output": 15_000}
    cells = {
        cell: {device.name: Curve((1,), (ns,)) for device in DEVICES}
        for cell, ns in duration_ns.items()
    }
    dispatch = Dispatch(host_mode="processes", handoff_ns=4_000)
    return Profile(Cluster(DEVICES, links), cells, dispatch)


@dataclass
class Played:
    """One episode: what was seen, and the plan that came of it."""

    observations: list[EnvObservation]
    plan: Plan


def choose(observation: EnvObservation, rng: np.random.Generator) -> np.int64:
    """Return a legal candidate by chance, rather one that finishes its task soon."""
    lag = observation["candidates"][:, FEATURES.index("finish_lag")]
    score = np.where(observation["mask"] == 1, rng.gumbel(size=len(lag)) - lag, -np.inf)
    return np.int64(score.argmax())


def play(backend: Backend, inputs: list[ModelInput], number: int) -> Played:
    """Place input `number` on `backend`; equal seeds make equal choices of equal observations."""
    env = PlacementEnv(backend, inputs)
    rng = np.random.default_rng(number)
    observation, _ = env.reset(seed=0, options={"workload": number})
    seen, over = [observation], False
    while not over:
        observation, _, over, _, info = env.step(choose(observation, rng))
        seen.append(observation)
    env.close()
    return Played(seen, info["plan"])


def alike(a: Played, b: Played) -> bool:
    """Return whether both saw the same, bit by bit."""
    pairs = zip(a.observations, b.observations, strict=True)
    return all(np.array_equal(x[key], y[key]) for x, y in pairs for key in x)


def main() -> None:
    model = build_model("treelstm", {"input_dim": 24, "hidden_dim": 12})
    inputs = generate_inputs(model, 3, seed=1)
    profile = invented_profile()
    simulator = SimBackend(profile)
    with HardwareBackend(model, DEVICES, profile=profile) as hardware:
        for number, item in enumerate(inputs):
            simulated = play(simulator, inputs, number)
            real = play(hardware, inputs, number)
            print(f"input {number}: {len(item.graph)} tasks, {len(real.plan)} launches")
            print(f"  observations identical: {alike(simulated, real)}")
            print(f"  plans identical: {simulated.plan == real.plan}")
            print(f"  devices used: {', '.join(sorted(set(real.plan.placement().values())))}")


if __name__ == "__main__":
    main()
