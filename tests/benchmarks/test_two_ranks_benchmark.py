"""The benchmark of plans across hosts asks for what it says, and shows what came of it."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FOUND = {
    "mape": 0.031,
    "bias": -0.01,
    "worst": 0.2,
    "p95": 0.1,
    "noise": 0.04,
    "tau": None,
    "regret": 0.001,
    "conclusive": 0.5,
    "verdict": "fail",
    "cases": [1, 2, 3],
    "graphs": [1],
}


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("two_ranks")


def test_each_model_is_calibrated_and_then_validated_on_all_ranks(
    two_ranks: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[list[str]] = []

    def on_ranks(n_ranks: int, words: list[object], folder: Path) -> None:
        assert n_ranks == 3
        asked.append([str(word) for word in words])
        result = FOUND if words[0] == "validate" else {"links": []}
        Path(str(words[words.index("--json") + 1])).write_text(json.dumps(result))

    monkeypatch.setattr(two_ranks, "on_ranks", on_ranks)
    file = tmp_path / "found.json"
    models = ["treelstm:hidden_dim=8,input_dim=4", "moe"]
    words = ["--models", *models, "--ranks", "3", "--cases", "5", "--json", str(file)]
    two_ranks.main(two_ranks.parse(words))
    assert [(row[0], row[2]) for row in asked] == [
        (verb, model) for model in models for verb in ("calibrate", "validate")
    ]
    assert "cpu:0,host1/cpu:0,host2/cpu:0" in asked[0]
    assert asked[1][asked[1].index("--profile") + 1] == asked[0][asked[0].index("--json") + 1]
    table = capsys.readouterr().out.splitlines()
    assert table[2] == f"| {models[0]} | 3 | 3.1% | -1.0% | 20.0% | 4.0% | – | 0.10% | 50% | fail |"
    written = json.loads(file.read_text())
    assert [row["model"] for row in written["results"]] == models
    assert written["asked"]["cases"] == 5 and written["cores"] >= 1


def test_what_a_rank_says_ends_the_benchmark(
    two_ranks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert words[-3:] == ["dynpartition", "validate", "--json"]
        return subprocess.CompletedProcess(words, 2, "", "error: host1/cpu:0 was lost")

    monkeypatch.setattr(two_ranks.subprocess, "run", run)
    with pytest.raises(SystemExit, match="validate --json:\nerror: host1/cpu:0 was lost"):
        two_ranks.on_ranks(2, ["validate", "--json"], tmp_path)
