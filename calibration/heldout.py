"""What a profile was fitted to, so that nothing of it is used to judge the profile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynpartition.errors import CalibrationError
from dynpartition.graph import TaskGraph
from dynpartition.models import ModelInput
from dynpartition.plan import Plan
from dynpartition.profile import Profile

_DIGITS = 16


def shape_id(graph: TaskGraph) -> str:
    """Return what graphs with the same tasks and edges have in common."""
    return graph.digest[:_DIGITS]


def input_id(item: ModelInput) -> str:
    """Return what identical inputs have in common."""
    return hashlib.sha256(item.digest.encode()).hexdigest()[:_DIGITS]


def placement_id(graph: TaskGraph, plan: Plan) -> str:
    """Return what equal plans of equal graphs have in common."""
    text = repr([(launch.device, launch.tasks) for launch in plan.launches])
    return hashlib.sha256(f"{graph.digest}|{text}".encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class Used:
    """Inputs, shapes of graphs and placements, by their ids."""

    inputs: frozenset[str] = frozenset()
    shapes: frozenset[str] = frozenset()
    placements: frozenset[str] = frozenset()

    @staticmethod
    def of(profile: Profile) -> Used:
        """Return what `profile` says it was fitted to."""
        story = profile.provenance.get("fitted_to")
        if not isinstance(story, dict):
            return Used()
        names = ("inputs", "shapes", "placements")
        return Used(*(frozenset(map(str, story.get(name, ()))) for name in names))

    def as_plain(self) -> dict[str, object]:
        """Return it as it stands in a profile file."""
        names = ("inputs", "shapes", "placements")
        return {name: sorted(getattr(self, name)) for name in names}

    def __or__(self, other: Used) -> Used:
        return Used(
            self.inputs | other.inputs,
            self.shapes | other.shapes,
            self.placements | other.placements,
        )

    def check_input(self, item: ModelInput, *, known_shapes: bool = False) -> None:
        """Raise CalibrationError for an input that was used for fitting, or one of its shape.

        `known_shapes`: only for the input itself.
        """
        is_known = not known_shapes and shape_id(item.graph) in self.shapes
        if input_id(item) in self.inputs or is_known:
            raise CalibrationError(
                f"the profile was fitted to {item.name!r}, or to an input of the same shape; judge"
                " it by others (`held_out` leaves them out)"
            )

    def check_placement(self, placement: str) -> None:
        """Raise CalibrationError for a placement that was used for fitting."""
        if placement in self.placements:
            raise CalibrationError(
                f"the profile was fitted to placement {placement}; judge it by others"
            )

    def held_out(self, items: Sequence[ModelInput]) -> list[ModelInput]:
        """Return the inputs not used for fitting, nor any of their shape; of each shape one.

        CalibrationError when none is left.
        """
        left: dict[str, ModelInput] = {}
        for item in items:
            shape = shape_id(item.graph)
            if input_id(item) not in self.inputs and shape not in self.shapes:
                left.setdefault(shape, item)
        if not left and items:
            raise CalibrationError(
                f"the profile was fitted to inputs of the shapes of all {len(items)} held-out"
                " inputs; give more inputs"
            )
        return list(left.values())

    def to_judge_by(self, items: Sequence[ModelInput]) -> tuple[list[ModelInput], bool]:
        """Return what is left to judge a profile by, and whether its shapes were fitted to.

        As `held_out`; where all shapes were used, as in models that have few, other inputs of
        these shapes, of each shape one. CalibrationError when none is left.
        """
        try:
            return self.held_out(items), False
        except CalibrationError:
            left: dict[str, ModelInput] = {}
            for item in items:
                if input_id(item) not in self.inputs:
                    left.setdefault(shape_id(item.graph), item)
            if not left:
                raise
            return list(left.values()), True


def used_by(runs: Iterable[tuple[ModelInput, TaskGraph, Plan]]) -> Used:
    """Return what fitting to these runs uses up."""
    rows = list(runs)
    return Used(
        frozenset(input_id(item) for item, _, _ in rows),
        frozenset(shape_id(graph) for _, graph, _ in rows),
        frozenset(placement_id(graph, plan) for _, graph, plan in rows),
    )
