"""The benchmark of capture runs and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "capture.py"


def test_capture_and_requests_in_flight_are_measured(tmp_path):
    file = tmp_path / "capture.json"
    words = ("--rounds", "1", "--trees", str(tmp_path / "trees.txt"), "--json", str(file))
    (tmp_path / "trees.txt").write_text("(3 (2 a) (2 (2 good) (3 film)))\n" * 3)
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *words]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=280)
    assert ran.returncode == 0, ran.stderr
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["capture"]["share"] > 0
    assert [row["model"] for row in content["in_flight"]] == ["earlyexit", "layerskip", "refine"]
    assert all(row["gain"] > 0 for row in content["in_flight"])
