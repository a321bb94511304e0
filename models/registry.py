"""The models by name: how to build one and how to make inputs for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dynpartition.errors import ModelError, did_you_mean
from dynpartition.models.config import config_from
from dynpartition.models.mathfunc import MathFunc
from dynpartition.models.model import DynamicModel, ModelInput
from dynpartition.models.moe import MoE
from dynpartition.models.treelstm import TreeLSTM
from dynpartition.models.zoo.early_exit import EarlyExit
from dynpartition.models.zoo.layer_skip import LayerSkip
from dynpartition.models.zoo.refine import Refine
from dynpartition.models.zoo.resnet import ResNet
from dynpartition.models.zoo.sequence import SequenceModel
from dynpartition.models.zoo.soft_moe import SoftMoE

ConfigValues = Mapping[str, object]
"""Fields of a configuration; those left out keep their defaults."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One kind of model."""

    kind: type[DynamicModel[Any]]

    @property
    def name(self) -> str:
        """The name that `build_model` takes."""
        return self.kind.name

    @property
    def summary(self) -> str:
        """One line for tables."""
        return self.kind.summary

    def build(self, config: ConfigValues | None = None, seed: int = 0) -> DynamicModel[Any]:
        """Return a new model; ModelError for an unusable configuration."""
        return self.kind(config_from(self.kind.config_type, config), seed)

    def generate(self, count: int, seed: int, config: ConfigValues | None = None) -> list[Any]:
        """Return `count` samples for a model of this configuration."""
        return self.kind.generate(count, seed, config_from(self.kind.config_type, config))

    def inputs(self, model: DynamicModel[Any], samples: Iterable[Any]) -> list[ModelInput]:
        """Return the samples as workloads."""
        return [ModelInput(model, sample) for sample in samples]


_WRITTEN: tuple[type[DynamicModel[Any]], ...] = (TreeLSTM, MathFunc, MoE)
"""Models that name their tasks themselves, for the least cost around their cells."""
_CAPTURED: tuple[type[DynamicModel[Any]], ...] = (
    *(EarlyExit, LayerSkip, Refine, ResNet, SequenceModel, SoftMoE),
)
"""Models of plain PyTorch code, captured."""

MODELS: dict[str, ModelEntry] = {kind.name: ModelEntry(kind) for kind in (*_WRITTEN, *_CAPTURED)}
"""Models by name. Adding an entry makes a model known, in this process."""

SHEET_MODELS = tuple(kind.name for kind in _WRITTEN)
"""Models whose cells the shipped profiles hold."""


def model_entry(name: str) -> ModelEntry:
    """Return the entry called `name`; ModelError when there is none."""
    if name not in MODELS:
        raise ModelError(f"no model is named {name!r}; {did_you_mean(name, MODELS)}")
    return MODELS[name]


def build_model(name: str, config: ConfigValues | None = None, seed: int = 0) -> DynamicModel[Any]:
    """Return a new model whose weights follow from `seed`; ModelError for what cannot be built."""
    return model_entry(name).build(config, seed)


def generate_inputs(model: DynamicModel[Any], count: int, seed: int) -> list[ModelInput]:
    """Return `count` generated inputs for `model`; input i depends on (seed, i) and its sizes."""
    return [ModelInput(model, sample) for sample in model.samples(count, seed)]
