"""dynpartition.models: dynamic networks, their inputs, and the tasks that an input calls for.

`build_model("treelstm")` makes a model, `generate_inputs(model, count, seed)` workloads for it.
A model of your own derives from `DynamicModel`; `check_model` tries whether it keeps the contract.

Axis letters: k tasks of one launch, n nodes of a tree, T tokens, d width, H hidden, C chunk.
"""

from dynpartition.models.check import check_model
from dynpartition.models.config import ModelConfig
from dynpartition.models.expressions import Expression, generate_expressions
from dynpartition.models.interpreter import call_cell, task_arguments, unfold
from dynpartition.models.merged import MergedInput, merge_inputs
from dynpartition.models.model import (
    DynamicModel,
    ModelInput,
    ModelRun,
    ModelSpec,
    NewTask,
    StaticRun,
    graph_of,
    run_eagerly,
)
from dynpartition.models.moe import generate_tokens
from dynpartition.models.registry import (
    MODELS,
    ModelEntry,
    build_model,
    generate_inputs,
    model_entry,
)
from dynpartition.models.tasks import Outputs, TaskBlock, TaskKind, stack_outputs
from dynpartition.models.tree_files import read_tree, read_trees
from dynpartition.models.trees import ParseTree, generate_trees

__all__ = [
    "MODELS",
    "DynamicModel",
    "Expression",
    "MergedInput",
    "ModelConfig",
    "ModelEntry",
    "ModelInput",
    "ModelRun",
    "ModelSpec",
    "NewTask",
    "Outputs",
    "ParseTree",
    "StaticRun",
    "TaskBlock",
    "TaskKind",
    "build_model",
    "call_cell",
    "check_model",
    "generate_expressions",
    "generate_inputs",
    "generate_tokens",
    "generate_trees",
    "graph_of",
    "merge_inputs",
    "model_entry",
    "read_tree",
    "read_trees",
    "run_eagerly",
    "stack_outputs",
    "task_arguments",
    "unfold",
]

if __name__ != "dynpartition.models":
    raise ImportError("import dynpartition.models, not models")
