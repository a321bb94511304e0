from dataclasses import dataclass

import pytest
import torch

from dynpartition.errors import ModelError
from dynpartition.models.config import ModelConfig, config_from


@dataclass(frozen=True)
class Sizes(ModelConfig):
    width: int = 4
    depth: int = 2


def test_given_fields_replace_defaults():
    assert config_from(Sizes, {"width": 8}) == Sizes(width=8, depth=2)
    assert config_from(Sizes, None) == Sizes()


def test_plain_values_build_the_same_configuration():
    assert config_from(Sizes, Sizes(7, 3).plain()) == Sizes(7, 3)


@pytest.mark.parametrize("value", [0, -1, 65_537, 1.5, "8", True, None, float("nan")])
def test_values_that_are_no_size_are_refused(value):
    with pytest.raises(ModelError, match=r"Sizes: width is .* whole number from 1"):
        config_from(Sizes, {"width": value})


def test_unknown_field_suggests_a_near_one():
    with pytest.raises(ModelError, match="no field 'widht'; did you mean 'width'"):
        config_from(Sizes, {"widht": 8})


def test_numbers_have_32_or_64_bits():
    assert Sizes().dtype == torch.float32
    assert Sizes(float_bits=64).dtype == torch.float64
    with pytest.raises(ModelError, match="float_bits is 16; give 32 or 64"):
        Sizes(float_bits=16)
