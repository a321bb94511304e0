import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition.errors import InputError, ModelError
from dynpartition.models.expressions import Expression, generate_expressions

ONE = torch.ones(2)


def depth_of(expression):
    depths = []
    for arguments in expression.arguments:
        depths.append(1 + max((depths[a] for a in arguments), default=-1))
    return depths[-1]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), depth=st.integers(1, 6), arity=st.integers(2, 4))
def test_generated_expressions_keep_to_the_ranges(seed, depth, arity):
    (made,) = generate_expressions(1, seed, width=2, depths=(depth, depth), arities=(2, arity))
    assert depth_of(made) == depth
    for operation, arguments in zip(made.operations, made.arguments, strict=True):
        assert len(arguments) <= arity
        assert len(arguments) != 1 or operation in ("sin", "cos")
    used = [argument for arguments in made.arguments for argument in arguments]
    assert sorted(used) == list(range(len(made) - 1))  # a tree: each node but the root used once


def test_all_operations_occur():
    made = generate_expressions(20, 0, width=2)
    seen = {operation for expression in made for operation in expression.operations}
    assert seen == {"value", "sin", "cos", "add", "mul"}


@pytest.mark.parametrize(
    ("operations", "arguments", "values", "message"),
    [
        ((), (), {}, "needs nodes"),
        (("value", "sn"), ((), (0,)), {0: ONE}, "node 1: no operation is named 'sn'; did you mean"),
        (("value", "sin"), ((), ()), {0: ONE}, "node 1: sin has 0 arguments, not 1 to 1"),
        (("value", "add"), ((), (0,)), {0: ONE}, "node 1: add has 1 arguments, not 2 to 64"),
        (("value", "sin"), ((), (1,)), {0: ONE}, r"arguments \(1,\) must be nodes before it"),
        (("value", "sin"), ((), (-1,)), {0: ONE}, "must be nodes before it"),
        (("value", "sin"), ((), (0,)), {}, "exactly the nodes with operation 'value'"),
        (("value", "value"), ((), ()), {0: ONE, 1: torch.ones(3)}, "vectors of one width"),
        (("value",), ((),), {0: torch.ones(2, 2)}, "vectors of one width"),
        (("value",), ((),), {0: ONE.double()}, "node 0: the value must be finite and float32"),
        (("value",), ((),), {0: ONE * float("nan")}, "must be finite"),
        (("value", *["sin"] * 201), ((), *((i,) for i in range(201))), {0: ONE}, "is 201 deep"),
    ],
)
def test_malformed_expressions(operations, arguments, values, message):
    with pytest.raises(InputError, match=message):
        Expression(operations, arguments, values)


@pytest.mark.parametrize("options", [{"depths": (0, 3)}, {"depths": (3, 2)}, {"arities": (1, 2)}])
def test_unusable_ranges(options):
    with pytest.raises(ModelError, match="no usable range"):
        generate_expressions(1, 0, width=2, **options)
