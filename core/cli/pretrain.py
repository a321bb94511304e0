"""`dynpartition pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynpartition.cli.local import check_cells
from dynpartition.cli.options import ModelVerb, check_count, check_seconds
from dynpartition.cli.training import Trained, describe_training, pretraining, train_into
from dynpartition.errors import UsageError
from dynpartition.formats import find_profile, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynpartition.contract import Backend
    from dynpartition.models import ModelInput

    Parts = tuple[Sequence[ModelInput], Sequence[ModelInput]]

EPISODES_MAX = 10**9
WORKERS_MAX = 1000
"""More of either are a slip."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(ModelVerb):
    """Train a policy in the simulator; the folder gets its checkpoint and learning curve."""

    profile: str
    """Profile file, or the name of a shipped profile."""
    out: Path
    """Folder for `checkpoint/` and `metrics.jsonl`."""
    seconds: float | None = None
    """How long to train; 60, if --episodes is not given either."""
    episodes: int | None = None
    """How many episodes to train: with the same seed the same result, however fast the machine."""
    workers: str | None = None
    """Where rollouts are played: ray, ray:4 (on 4 of its CPUs); else in this process."""
    agent: Literal["policy", "dqn", "policy-value"] = "policy"
    """What to train: the policy, or an agent of the DynPartition paper."""
    defects: str | None = None
    """Of the paper's agents: comma-separated defects of the published code to keep, or all."""
    resume: bool = False
    """Of the paper's agents: go on from the checkpoint in --out."""
    scratch: bool = False
    """Begin with random weights instead of the shipped policy."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, into --out."""

    def execute(self) -> None:
        """Pretrain."""
        from dynpartition.models.splitting import select
        from dynpartition.sim.backend import SimBackend

        if self.seconds is not None:
            check_seconds("--seconds", self.seconds)
        if self.episodes is not None:
            check_count("--episodes", self.episodes, most=EPISODES_MAX)
        n_workers = parse_workers(self.workers)
        if self.agent == "policy" and (self.defects is not None or self.resume):
            raise UsageError(
                "--defects and --resume are of the paper's agents; give --agent dqn or policy-value"
            )
        if self.agent != "policy":
            self._refuse_for_paper()
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        backend = SimBackend(profile)
        inputs = self.load_inputs(model)
        parts = (select(inputs, "train"), select(inputs, "validation"))
        result = self._train(backend, parts, n_workers)
        if self.json:
            write_json(self.json, {"history": result.history})
        print(describe_training(result))

    def _refuse_for_paper(self) -> None:
        if self.scratch:
            raise UsageError("--scratch is of the policy; the paper's agents always begin anew")
        for option, value in (("--workers", self.workers), ("--episodes", self.episodes)):
            if value is not None:
                raise UsageError(f"{option} is of the policy; leave it out with --agent")

    def _train(self, backend: Backend, parts: Parts, n_workers: int | None) -> Trained:
        seconds = 60.0 if self.seconds is None and self.episodes is None else self.seconds
        if self.agent != "policy":
            from dynpartition.cli.paper_training import paper_config, train_paper_into

            settings = paper_config(self.agent, seconds or 60.0, self.seed, self.defects)
            return train_paper_into(
                self.out, backend, parts, settings, resume=self.resume, track=self.track
            )
        start, config = pretraining(
            seconds, self.seed, scratch=self.scratch, episodes=self.episodes
        )
        if self.workers is None:
            return train_into(self.out, backend, parts, start, config, track=self.track)
        from dynpartition.agent.ray_crew import ray_crew, simulated_inputs

        with ray_crew(simulated_inputs(backend.profile, parts[0], config), n_workers) as crew:
            return train_into(self.out, backend, parts, start, config, track=self.track, crew=crew)


def parse_workers(text: str | None) -> int | None:
    """Return the 4 of `ray:4`; None for `ray` alone, or nothing. UsageError for other words."""
    if text is None:
        return None
    engine, colon, number = text.partition(":")
    if engine != "ray" or (colon and not (number.isascii() and number.isdecimal())):
        raise UsageError(f"--workers is {text!r}; write ray, or ray:4 for 4 workers on Ray")
    if not colon:
        return None
    check_count("--workers ray", int(number[:9]), most=WORKERS_MAX)
    return int(number)
