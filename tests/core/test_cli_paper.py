"""The paper's agents on the command line: trained, gone on with, played."""

from __future__ import annotations

import json

import pytest

from dynpartition.__main__ import main
from dynpartition.agent.paper.checkpoint import load_paper_checkpoint


def train(folder, *words):
    profile = ("--profile", "synthetic-cpu-2gpu", "--inputs", "40", "--seconds", "0.5")
    return main(["pretrain", *profile, "--out", str(folder), *words])


def refusal(capsys, *words):
    assert main([*words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dqn", "policy-value"])
def test_an_agent_is_trained_and_played(kind, capsys, tmp_path):
    assert train(tmp_path, "--agent", kind, "--json", str(tmp_path / "all.json")) == 0
    assert "× the best single device's time" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == json.loads((tmp_path / "all.json").read_text())["history"][:-1] + lines[-1:]
    assert {"update", "episodes", "seconds", "reward", "reward_ms", "loss"} <= lines[0].keys()
    words = ["--policy", str(tmp_path / "checkpoint"), "--cases", "2", "--repeats", "1"]
    evaluated = tmp_path / "evaluated.json"
    profile = ["--profile", "synthetic-cpu-2gpu", "--inputs", "40", "--json", str(evaluated)]
    assert main(["evaluate", *profile, *words]) == 0
    assert kind in [row["scheduler"] for row in json.loads(evaluated.read_text())["rows"]]


def test_training_goes_on_where_it_stopped(capsys, tmp_path):
    assert train(tmp_path, "--agent", "dqn") == 0
    first = load_paper_checkpoint(tmp_path / "checkpoint").training["updates"]
    assert train(tmp_path, "--agent", "dqn", "--resume") == 0
    assert load_paper_checkpoint(tmp_path / "checkpoint").training["updates"] > first
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    updates = [json.loads(line)["update"] for line in lines]
    assert updates == list(range(1, len(updates) + 1))


def test_defects_can_be_kept_by_name(tmp_path):
    assert train(tmp_path, "--agent", "policy-value", "--defects", "no-mask, parent-channel") == 0
    config = load_paper_checkpoint(tmp_path / "checkpoint").agent.config
    assert config.defects == ("no-mask", "parent-channel")
    assert train(tmp_path / "all", "--agent", "dqn", "--defects", "all") == 0


def test_mistakes_are_one_clear_line(capsys, tmp_path):
    base = ("pretrain", "--profile", "paper-a100", "--inputs", "40", "--out", str(tmp_path / "x"))
    assert "give --agent dqn or policy-value" in refusal(capsys, *base, "--resume")
    wrong = refusal(capsys, *base, "--agent", "dqn", "--defects", "nomask")
    assert "no defect is named 'nomask'; did you mean 'no-mask'" in wrong
    missing = refusal(capsys, *base, "--agent", "dqn", "--resume")
    assert "manifest.json: No such file" in missing
    assert "--agent" in refusal(capsys, *base, "--agent", "sarsa")
    model = refusal(
        capsys, *base[:2], "synthetic-cpu-2gpu", *base[3:], "--agent", "dqn", "--model", "moe"
    )
    assert "the paper's agents decide once" in model
