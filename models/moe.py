"""Transformer blocks with a mixture of experts behind a hard gate: one expert per token.

Shazeer et al. 2017 with k = 1, as in Fedus et al. 2021 (Switch Transformer), without dropping.
Which expert tasks exist, and how many, is known only when the block's router has finished.
Axes: k tasks of a launch, T tokens, d width, C tokens of a chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynpartition.errors import InputError, ModelError
from dynpartition.models.config import ModelConfig
from dynpartition.models.model import DynamicModel, ModelRun, NewTask
from dynpartition.models.moe_cells import Attention, Combine, Expert, Head, Router
from dynpartition.models.seeds import sample_rng

TOKENS_MAX = 16_384
"""More tokens in a sample are an error; attention takes memory in proportion to their square."""

CELLS_MAX = 1024
"""More experts in all are an error: each is a module of its own, which takes time to build."""


@dataclass(frozen=True)
class MoEConfig(ModelConfig):
    """Sizes of the mixture of experts."""

    width: int = 128
    heads: int = 4
    blocks: int = 2
    experts: int = 4
    ffn_multiple: int = 4
    """Hidden width of an expert, in widths."""
    chunk_tokens: int = 8
    """Tokens of one expert task."""
    classes: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ModelError(f"width {self.width} is no multiple of heads {self.heads}; change one")
        if self.blocks * self.experts > CELLS_MAX:
            raise ModelError(
                f"{self.blocks} blocks of {self.experts} experts are more than {CELLS_MAX} cells;"
                " take fewer"
            )


class MoE(DynamicModel[Tensor]):
    """The sample is float32 (T, d) tokens; the answer is (T, classes) log-probabilities.

    Tasks: `block0.attention`, `block0.router`; revealed by a router: the `expert_e` tasks of its
    block (ascending e, then chunk), `combine`, and the next block's attention and router, or the
    `head`. What a profile holds is cost per cell, and the cost of these cells grows with T: keep
    to one T, as `generate` does, or to few.
    """

    name = "moe"
    summary = "transformer blocks with hard-gated experts, routed token by token"
    config_type = MoEConfig
    config: MoEConfig

    def _make_cells(self) -> dict[str, nn.Module]:
        config = self.config
        cells: dict[str, nn.Module] = {}
        for block in range(config.blocks):
            cells[f"block{block}.attention"] = Attention(config.width, config.heads)
            cells[f"block{block}.router"] = Router(config.width, config.experts)
            for expert in range(config.experts):
                cells[expert_name(block, expert)] = Expert(config.width, config.ffn_multiple)
            cells[f"block{block}.combine"] = Combine()
        return {**cells, "head": Head(config.width, config.classes)}

    def start(self, sample: Tensor) -> MoERun:
        """Return the run of (T, d) tokens."""
        _check_tokens(sample, self.config.width)
        return MoERun(self.config, sample.to(self.config.dtype))

    @torch.inference_mode()
    def eager(self, sample: Tensor) -> Tensor:
        """Return the answer by a loop over blocks and experts, with a mask per expert."""
        _check_tokens(sample, self.config.width)
        tokens = sample.to(self.config.dtype).unsqueeze(0)
        for block in range(self.config.blocks):
            tokens = self._eager_block(block, tokens)
        answer: Tensor = self.cells["head"](tokens)[0]
        return answer

    def _eager_block(self, block: int, tokens: Tensor) -> Tensor:
        attended: Tensor = self.cells[f"block{block}.attention"](tokens)  # (1, T, d)
        chosen, gate = self.cells[f"block{block}.router"](attended).unbind(2)  # (1, T) each
        result = attended.clone()
        for number in range(self.config.experts):
            expert = self.cells[expert_name(block, number)]
            assert isinstance(expert, Expert)
            mask = chosen == number
            result[mask] += gate[mask].unsqueeze(1) * expert.network(attended[mask])
        return result

    def digest(self, sample: Tensor) -> str:
        """Return the digest of shape and values."""
        _check_tokens(sample, self.config.width)
        data = sample.detach().cpu().numpy().astype("<f4").tobytes()
        return hashlib.sha256(repr(tuple(sample.shape)).encode() + data).hexdigest()

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tensor]:
        """Return samples of 32 tokens; see `generate_tokens` for other counts."""
        assert isinstance(config, MoEConfig)
        return generate_tokens(count, seed, width=config.width)


class MoERun(ModelRun):
    """One batch of tokens on its way through the blocks."""

    def __init__(self, config: MoEConfig, tokens: Tensor) -> None:
        self._config = config
        self._tokens = tokens
        self._shape = tuple(tokens.shape)
        self._count = 0
        self._block = 0  # whose router is awaited

    def opening(self) -> list[NewTask]:
        """Return the first block's attention and router."""
        return self._numbered([self._attention((), self._tokens), self._router(0)])

    def expand(self, task: int, output: Tensor) -> list[NewTask]:
        """Return the expert tasks that a router's choice (T, 2) calls for, and what follows."""
        if task != self._count - 1 or self._block == self._config.blocks:
            return super().expand(task, output)
        routes, where = routed(output, self._config.chunk_tokens)
        experts = [self._expert(task - 1, expert, index) for expert, index in routes]
        combine_number = self._count + len(experts)
        read = (task - 1, *range(self._count, combine_number))
        combine = self._task("combine", inputs=read, host_input=where)
        self._block += 1
        return self._numbered([*experts, combine, *self._next(combine_number)])

    def answer(self, outputs: Mapping[int, Tensor]) -> Tensor:
        """Return the output of the head."""
        (result,) = outputs.values()
        return result

    def _next(self, combine: int) -> list[NewTask]:
        """Return what reads a combined block: the next block, or the head."""
        if self._block < self._config.blocks:
            return [self._attention((combine,), None), self._router(combine + 1)]
        shape = (self._shape[0], self._config.classes)
        return [self._new("head", (combine,), shape, returns=True)]

    def _attention(self, inputs: tuple[int, ...], host_input: Tensor | None) -> NewTask:
        return self._task("attention", inputs=inputs, host_input=host_input)

    def _router(self, attention: int) -> NewTask:
        shape = (self._shape[0], 2)
        return self._new(f"block{self._block}.router", (attention,), shape, reveals=True)

    def _expert(self, attention: int, expert: int, index: Tensor) -> NewTask:
        cell = expert_name(self._block, expert)
        shape = (len(index), self._shape[1])
        return self._new(cell, (attention,), shape, host_input=index)

    def _task(self, kind: str, *, inputs: tuple[int, ...], host_input: Tensor | None) -> NewTask:
        cell = f"block{self._block}.{kind}"
        return self._new(cell, inputs, self._shape, host_input=host_input)

    def _new(
        self,
        cell: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        *,
        host_input: Tensor | None = None,
        returns: bool = False,
        reveals: bool = False,
    ) -> NewTask:
        return NewTask(
            cell=cell,
            inputs=inputs,
            output_shape=shape,
            output_dtype=self._config.dtype,
            host_input=host_input,
            returns=returns,
            reveals=reveals,
        )

    def _numbered(self, tasks: list[NewTask]) -> list[NewTask]:
        self._count += len(tasks)
        return tasks


def expert_name(block: int, expert: int) -> str:
    """Return the name of an expert's cell."""
    return f"block{block}.expert_{expert}"


def routed(choice: Tensor, chunk_tokens: int) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Return the expert tasks of a router's choice, (T, 2), and where their rows go.

    The tasks are (expert, int64 (C,) tokens): each expert's tokens in chunks of C, the last one
    filled up by repeating its last token. `where`, (T, 2), holds per token its row among
    the rows of all tasks, one after the other, and its gate weight; the rows that fill up are in
    no token's entry, so they are dropped. (Rows are exact in float32 up to 2^24.)
    """
    chosen, where = choice[:, 0].long(), choice.clone()
    routes: list[tuple[int, Tensor]] = []
    for expert in sorted(set(chosen.tolist())):
        for tokens in (chosen == expert).nonzero()[:, 0].split(chunk_tokens):
            first_row = len(routes) * chunk_tokens
            where[tokens, 0] = torch.arange(first_row, first_row + len(tokens)).to(where)
            filling = tokens[-1:].expand(chunk_tokens - len(tokens))
            routes.append((expert, torch.cat([tokens, filling])))
    return routes, where


def generate_tokens(
    count: int, seed: int, *, width: int, token_counts: tuple[int, ...] = (32,)
) -> list[Tensor]:
    """Return `count` samples, float32 (T, width), with T drawn from `token_counts`.

    The tokens of a sample share a random direction, so samples take different routes.
    """
    samples = []
    for rng in (sample_rng(seed, index) for index in range(count)):
        shape = (int(rng.choice(token_counts)), width)
        tokens = 0.4 * rng.standard_normal(width) + rng.standard_normal(shape)
        samples.append(torch.from_numpy(tokens).float())
    return samples


def _check_tokens(tokens: Tensor, width: int) -> None:
    shape = tuple(tokens.shape)
    if len(shape) != 2 or shape[1] != width or not 1 <= shape[0] <= TOKENS_MAX:
        raise InputError(f"tokens are {shape}; give (T, {width}) with T from 1 to {TOKENS_MAX}")
    if tokens.dtype != torch.float32 or not bool(torch.isfinite(tokens).all()):
        raise InputError(f"tokens are {tokens.dtype} or not finite; give finite float32 values")
