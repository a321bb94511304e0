"""A TreeLSTM node by node with a linear map per gate and child, as the DynPartition paper had it.

By plain recursion, and with an asyncio task per node. The weights are a fused model's, so that
answers agree with its. A state is the pair (h, c), each (1, H); h_l and h_r are the children's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynpartition.models import ParseTree
from dynpartition.models.treelstm import Composer, Leaf, Output, TreeLSTM, word_vector

State = tuple[Tensor, Tensor]


class Gate:
    """One gate of an inner node: a linear map of h_l plus one of h_r."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        from_left, from_right = weight.chunk(2, dim=1)  # each (H, H)
        self.left = linear(from_left, bias)
        # One bias is enough: a second one would make the baseline slower, and answers no better.
        self.right = linear(from_right, None)

    def __call__(self, h_l: Tensor, h_r: Tensor) -> Tensor:
        """Return what goes into the gate's sigmoid or tanh: (1, H)."""
        total: Tensor = self.left(h_l) + self.right(h_r)
        return total


class UnfusedTreeLSTM:
    """The cells: three linear maps for a leaf, two for each of an inner node's five gates."""

    def __init__(self, model: TreeLSTM) -> None:
        leaf, composer, output = (model.cells[name] for name in ("leaf", "composer", "output"))
        assert isinstance(leaf, Leaf) and isinstance(composer, Composer)
        assert isinstance(output, Output)
        self.input_dim = model.config.input_dim
        self.leaf_i, self.leaf_o, self.leaf_u = (linear(*rows) for rows in gates(leaf.gates, 3))
        parts = [Gate(*rows) for rows in gates(composer.gates, 5)]
        self.i, self.f_left, self.f_right, self.o, self.u = parts
        self.scores = linear(output.scores.weight, output.scores.bias)

    def leaf(self, word: str) -> State:
        """Return the state of a leaf."""
        x = word_vector(word, self.input_dim).unsqueeze(0)
        c = torch.sigmoid(self.leaf_i(x)) * torch.tanh(self.leaf_u(x))
        return torch.sigmoid(self.leaf_o(x)) * torch.tanh(c), c

    def compose(self, left: State, right: State) -> State:
        """Return the state of an inner node."""
        (h_l, c_l), (h_r, c_r) = left, right
        i, u = torch.sigmoid(self.i(h_l, h_r)), torch.tanh(self.u(h_l, h_r))
        f_l, f_r = torch.sigmoid(self.f_left(h_l, h_r)), torch.sigmoid(self.f_right(h_l, h_r))
        c = i * u + f_l * c_l + f_r * c_r
        return torch.sigmoid(self.o(h_l, h_r)) * torch.tanh(c), c

    def output(self, state: State) -> Tensor:
        """Return log-probabilities: (1, classes)."""
        return torch.log_softmax(self.scores(state[0]), dim=1)


class Recursion:
    """Runs trees one after the other by plain recursion."""

    def __init__(self, model: TreeLSTM) -> None:
        self.cells = UnfusedTreeLSTM(model)

    @torch.no_grad()
    def run(self, trees: Sequence[ParseTree]) -> list[Tensor]:
        """Return the answer of each tree: (n, classes) in post-order."""
        return [self._answer(tree) for tree in trees]

    def _answer(self, tree: ParseTree) -> Tensor:
        answers: list[Tensor] = []
        self._visit(tree, tree.root, answers)
        return torch.cat(answers)

    def _visit(self, tree: ParseTree, node: int, answers: list[Tensor]) -> State:
        cells, below = self.cells, tree.left[node]
        if below < 0:
            state = cells.leaf(tree.words[node])
        else:
            left = self._visit(tree, below, answers)
            state = cells.compose(left, self._visit(tree, tree.right[node], answers))
        answers.append(cells.output(state))  # the recursion meets the nodes in post-order
        return state


class AsyncioTasks:
    """Runs trees side by side in one event loop, a task per node that awaits its children's."""

    def __init__(self, model: TreeLSTM) -> None:
        self.cells = UnfusedTreeLSTM(model)
        # One loop for all calls, and without asyncio.run: that sets a handler for Ctrl-C anew each
        # time, of which Python makes a text that holds the answer: 1 to 2 ms (Python 3.11).
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    @torch.no_grad()
    def run(self, trees: Sequence[ParseTree]) -> list[Tensor]:
        """Return the answer of each tree: (n, classes) in post-order."""
        return self._loop.run_until_complete(self._answers(trees))

    async def _answers(self, trees: Sequence[ParseTree]) -> list[Tensor]:
        return await asyncio.gather(*[self._answer(tree) for tree in trees])

    async def _answer(self, tree: ParseTree) -> Tensor:
        answers: list[Tensor | None] = [None] * len(tree)
        await self._visit(tree, tree.root, answers)
        return torch.cat([answer for answer in answers if answer is not None])

    async def _visit(self, tree: ParseTree, node: int, answers: list[Tensor | None]) -> State:
        cells, below = self.cells, tree.left[node]
        if below < 0:
            state = cells.leaf(tree.words[node])
        else:
            children = [self._visit(tree, child, answers) for child in (below, tree.right[node])]
            left, right = await asyncio.gather(*children)
            state = cells.compose(left, right)
        answers[node] = cells.output(state)
        return state


def gates(fused: nn.Linear, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of each of the `count` gates that one matrix product stands for."""
    return list(zip(fused.weight.chunk(count), fused.bias.chunk(count), strict=True))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear map with memory of its own, like one that has been trained by itself."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made
