"""The paper's table: rows, signs and the order that the paper found, in a short run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
MEASURED, TREES = DATA / "paper_a100_measurements.json", DATA / "sst_trees_dev_part1.txt"


def run_script(path: Path, *words: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / "paper_table.py"), "--json", str(path)]
    subprocess.run([*command, *words], check=True, capture_output=True, text=True)
    return json.loads(path.read_text())


def test_generated_trees_and_a_moment_of_training(tmp_path):
    content = run_script(tmp_path / "a.json", "--seconds", "1", "--agents", "dqn")
    rewards = {row["agent"]: row for row in content["rewards"]}
    assert list(rewards) == ["static-cpu", "static-gpu", "random", "dqn"]
    times = {name: -row["simulated_ms"] for name, row in rewards.items()}
    assert 0 < times["static-cpu"] < min(times["random"], times["static-gpu"])
    for row in rewards.values():
        assert row["deviation"] == pytest.approx(row["simulated_ms"] / row["published_ms"] - 1)
        assert row["source"]
    learning = content["learning"]["dqn"]
    assert learning["episodes"] > 0 and 0 <= learning["share_on_gpu"] <= 1
    assert "splits" not in content


@pytest.mark.skipif(not MEASURED.exists(), reason="the paper's measurements are not at hand")
def test_the_measured_trees_meet_the_stated_errors(tmp_path):
    files = ("--trees", str(TREES), "--measured", str(MEASURED))
    content = run_script(tmp_path / "a.json", *files, "--agents", "")
    splits = {row["log"]: row for row in content["splits"]}
    assert splits["manual_1_sync_cpu_cuda0"]["mape"] <= 0.07
    assert splits["manual_1_sync_cuda0_cuda1"]["mape"] <= 0.015
    rewards = {row["agent"]: row for row in content["rewards"]}
    assert abs(rewards["static-cpu"]["deviation"]) <= 0.08
    assert rewards["static-cpu"]["simulated_ms"] > rewards["random"]["simulated_ms"]
    assert rewards["static-cpu"]["simulated_ms"] > rewards["static-gpu"]["simulated_ms"]
    assert 0.75 < content["cpu_of_the_split_host"] < 0.85
