"""Inputs that are in flight together: one workload of all their tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dynpartition.contract import Workload
from dynpartition.errors import InputError
from dynpartition.graph import TaskGraph
from dynpartition.models.merged_runs import joined_rows
from dynpartition.models.model import DynamicModel, ModelInput
from dynpartition.models.tasks import ModelRun
from dynpartition.types import IntArray, frozen


class MergedInput(Workload):
    """Inputs of one model as one workload: a plan may batch tasks of different inputs.

    Tasks known from the start are numbered input by input; those revealed later follow in the order
    of their revelation. `graph.request` tells the input.
    """

    def __init__(self, inputs: Sequence[ModelInput]) -> None:
        if not inputs:
            raise InputError("nothing to merge: give at least one input")
        if any(one.model is not inputs[0].model for one in inputs):
            raise InputError("only inputs of one and the same model object can be merged")
        self.inputs = tuple(inputs)
        self.model: DynamicModel[Any] = inputs[0].model

    @property
    def name(self) -> str:
        """What reports call this workload."""
        return f"{self.inputs[0].name}+{len(self.inputs) - 1}"

    def start(self) -> ModelRun:
        """Return a new run; each execution needs its own."""
        return self.model.start_together([one.sample for one in self.inputs])

    @cached_property
    def graph(self) -> TaskGraph:
        """The complete graph, hidden tasks included; hidden tasks stand with their input's."""
        graphs = [one.graph for one in self.inputs]
        first = np.cumsum([0] + [len(graph) for graph in graphs])[:-1].tolist()

        def joined(rows: Iterable[IntArray]) -> IntArray:
            return frozen(np.concatenate(list(rows)))

        revealers = [
            np.where(graph.revealed_by >= 0, graph.revealed_by + offset, -1)
            for graph, offset in zip(graphs, first, strict=True)
        ]
        sizes = [len(graph) for graph in graphs]
        return TaskGraph(
            name=self.name,
            cells=graphs[0].cells,
            ids=frozen(np.arange(sum(sizes))),
            cell_of=joined(graph.cell_of for graph in graphs),
            inputs=joined_rows([graph.inputs for graph in graphs], first),
            output_bytes=joined(graph.output_bytes for graph in graphs),
            host_bytes=joined(graph.host_bytes for graph in graphs),
            arrival_ns=joined(graph.arrival_ns for graph in graphs),
            request=frozen(np.repeat(np.arange(len(graphs)), sizes)),
            revealed_by=joined(revealers),
            returns=joined(graph.returns for graph in graphs),
            durations={},
        )


def merge_inputs(inputs: Sequence[ModelInput]) -> MergedInput:
    """Return inputs of one model as one workload; InputError for none, and for several models."""
    return MergedInput(inputs)
