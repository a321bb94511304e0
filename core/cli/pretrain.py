"""`dynpartition pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynpartition.cli.local import check_cells
from dynpartition.cli.options import ModelVerb, check_seconds
from dynpartition.cli.training import Trained, describe_training, pretraining, train_into
from dynpartition.errors import UsageError
from dynpartition.formats import find_profile, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynpartition.contract import Backend
    from dynpartition.models import ModelInput

    Parts = tuple[Sequence[ModelInput], Sequence[ModelInput]]


@dataclass(frozen=True, kw_only=True)
class Pretrain(ModelVerb):
    """Train a policy in the simulator; the folder gets its checkpoint and learning curve."""

    profile: str
    """Profile file, or the name of a shipped profile."""
    out: Path
    """Folder for `checkpoint/` and `metrics.jsonl`."""
    seconds: float = 60.0
    """How long to train."""
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

        check_seconds("--seconds", self.seconds)
        if self.agent == "policy" and (self.defects is not None or self.resume):
            raise UsageError(
                "--defects and --resume are of the paper's agents; give --agent dqn or policy-value"
            )
        if self.agent != "policy" and self.scratch:
            raise UsageError("--scratch is of the policy; the paper's agents always begin anew")
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        backend = SimBackend(profile)
        inputs = self.load_inputs(model)
        parts = (select(inputs, "train"), select(inputs, "validation"))
        result = self._train(backend, parts)
        if self.json:
            write_json(self.json, {"history": result.history})
        print(describe_training(result))

    def _train(self, backend: Backend, parts: Parts) -> Trained:
        if self.agent != "policy":
            from dynpartition.cli.paper_training import paper_config, train_paper_into

            settings = paper_config(self.agent, self.seconds, self.seed, self.defects)
            return train_paper_into(
                self.out, backend, parts, settings, resume=self.resume, track=self.track
            )
        start, config = pretraining(self.seconds, self.seed, scratch=self.scratch)
        return train_into(self.out, backend, parts, start, config, track=self.track)
