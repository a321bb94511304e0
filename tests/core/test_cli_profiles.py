"""What `profiles` says of a profile's error."""

import pytest

from dynpartition.cli.profiles import describe_error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "not known"),
        ("as good as new", "as good as new"),
        (0.0668, "6.7 %"),
        (0, "0.0 %"),
        ({"mape": 0.149, "bias": -0.1}, "14.9 %"),
        ({"treelstm": 0.01, "moe": 0.125}, "treelstm: 1.0 %, moe: 12.5 %"),
        ({"fitted": {"a": {"mape": 0.006}}, "held_out": 0.5}, "fitted: a: 0.6 %; held_out: 50.0 %"),
        (True, "True"),
    ],
)
def test_errors_are_words_or_percent(error, text):
    assert describe_error(error) == text
