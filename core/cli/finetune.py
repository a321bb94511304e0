"""`dynpartition finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynpartition.cli.local import check_cells, open_hardware
from dynpartition.cli.options import ModelVerb, check_count, check_seconds
from dynpartition.cli.provenance import library_versions
from dynpartition.cli.training import CHECKPOINT, noting
from dynpartition.cli.validate import clock_of
from dynpartition.formats import Runs, find_profile, write_json, write_profile, writing

if TYPE_CHECKING:
    from dynpartition.agent.checkpoint import Checkpoint
    from dynpartition.agent.finetuning import FinetuneConfig, Finetuned
    from dynpartition.agent.policy import Policy
    from dynpartition.contract import Backend, Workload

PROFILE = "profile.json"
"""The corrected profile in the folder."""
VALIDATION_INPUTS = 12
"""How many inputs the guard measures: on hardware every one costs real runs."""
REHEARSALS_MAX = 10_000_000
"""More are a slip: that many take hours."""


@dataclass(frozen=True, kw_only=True)
class Finetune(ModelVerb):
    """Correct a profile, and train a policy on, by real runs on this machine's devices."""

    profile: str
    """Profile file of this machine, as `calibrate` wrote it; it names the devices."""
    policy: Path | None = None
    """Checkpoint folder to start from, as `pretrain` wrote it; default: the shipped policy."""
    out: Path
    """Folder for `checkpoint/`, `profile.json` (the corrected one) and `metrics.jsonl`."""
    episodes: int = 200
    """Real runs to learn from; the guard's measurements come on top."""
    rehearsals: int = 50_000
    """Rollouts in the simulator of the corrected profile."""
    seconds: float | None = None
    """Time limit of each of the three stages; without one, a run that is cut can be resumed as if
    it had not been."""
    resume: bool = False
    """Go on from the checkpoint in --out, given the same options otherwise."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, into --out."""

    def execute(self) -> None:
        """Fine-tune."""
        from dynpartition.agent.checkpoint import load_checkpoint
        from dynpartition.agent.policy import SHIPPED
        from dynpartition.models.splitting import select

        config = self._config()
        start = load_checkpoint(self.policy or SHIPPED).policy
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        inputs = self.load_inputs(model)
        parts = (select(inputs, "train"), select(inputs, "validation"))
        with open_hardware(model, profile, clock_of(profile)) as backend:
            tuned = finetune_into(
                *(self.out, backend, parts, start, config),
                model=self.model,
                resume=self.resume,
                track=self.track,
            )
        if self.json:
            write_json(self.json, {"history": tuned.history})
        print(describe_finetuning(tuned))
        print(f"the policy decides on {self.out / PROFILE}: give it as --profile")

    def _config(self) -> FinetuneConfig:
        from dynpartition.agent.finetuning import FinetuneConfig

        if self.seconds is not None:
            check_seconds("--seconds", self.seconds)
        check_count("--episodes", self.episodes)
        check_count("--rehearsals", self.rehearsals, least=0, most=REHEARSALS_MAX)
        return FinetuneConfig(
            episodes=self.episodes,
            correcting=round(CORRECTING_SHARE * self.episodes),
            rehearsals=self.rehearsals,
            seconds=self.seconds,
            seed=self.seed,
        )


CORRECTING_SHARE = 0.4
"""Of the real runs, those that correct the profile."""


def finetune_into(
    folder: Path,
    backend: Backend,
    inputs: tuple[Sequence[Workload], Sequence[Workload]],
    start: Policy,
    config: FinetuneConfig,
    *,
    model: str,
    resume: bool = False,
    track: Sequence[str] = (),
) -> Finetuned:
    """Fine-tune on the first inputs, judge by the second; the folder is complete at any moment."""
    from dynpartition.agent.checkpoint import load_checkpoint, save_checkpoint
    from dynpartition.agent.finetuning import finetune
    from dynpartition.agent.guard import guarded
    from dynpartition.belief import Believing
    from dynpartition.calibration.correcting import Correction
    from dynpartition.calibration.identity import identities

    profile = backend.profile
    machine = identities(profile.cluster.devices)
    correction = Correction(
        profile, Runs(model, clock_of(profile), machine, library_versions(), ())
    )
    before = load_checkpoint(folder / CHECKPOINT) if resume else None

    def keep(checkpoint: Checkpoint) -> None:
        with writing(folder / CHECKPOINT):
            save_checkpoint(folder / CHECKPOINT, checkpoint)

    with noting(folder, config.seconds, going_on=resume, track=track) as note:
        tuned = finetune(
            *(backend, inputs[0], start, correction, config),
            validation=inputs[1],
            resume=before,
            on_update=note,
            on_checkpoint=keep,
        )
        write_profile(folder / PROFILE, correction.as_file())
        known = Believing(backend, tuned.profile)
        judged = inputs[1][:VALIDATION_INPUTS] or inputs[0][:VALIDATION_INPUTS]
        tuned = replace(
            tuned, checkpoint=guarded(tuned.checkpoint, known, judged, seed=config.seed)
        )
        keep(tuned.checkpoint)
    return tuned


def describe_finetuning(tuned: Finetuned) -> str:
    """Return one line about what fine-tuning came to."""
    guard = tuned.checkpoint.training["guard"]
    assert isinstance(guard, dict)
    plays, ratios = guard["plays"], guard["ratios"]
    n_runs = int(tuned.history[-1]["episodes"]) if tuned.history else 0
    own = min(ratios["policy"], ratios["policy+merge"])
    return (
        f"{n_runs} runs; on inputs not trained on the policy takes {own:.3f} × the best single"
        f" device's time, decisions included; {plays} is deployed"
    )
