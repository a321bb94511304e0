"""The node of the paper: its fit recovers what made synthetic logs, and holds beyond them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynpartition.agent.registry import make_scheduler
from dynpartition.calibration import paper_node
from dynpartition.calibration.paper_node import (
    CPU_LOG,
    GPU_LOG,
    HOST,
    SPLIT_LOGS,
    Measurements,
    fit_node_cost,
    fit_paper_node,
    held_out_errors,
    predict_ms,
    read_measurements,
)
from dynpartition.calibration.paper_trees import left_nodes, paper_graph
from dynpartition.contract import GraphWorkload, run
from dynpartition.errors import CalibrationError
from dynpartition.formats import load_shipped
from dynpartition.models.tree_files import read_tree, read_trees
from dynpartition.models.trees import generate_trees
from dynpartition.sim import SimBackend

DATA = Path(__file__).parents[3] / "shared" / "data"
HAS_DATA = (DATA / "paper_a100_measurements.json").exists()
needs_data = pytest.mark.skipif(not HAS_DATA, reason="the paper's measurements are not at hand")
TREES = generate_trees(60, 5)
TRANSFERS = {
    HOST: {"cpu->cuda": 820.0, "cuda->cpu": 850.0, "cuda->cuda": 420.0},
    "enqueue_only_cuda->cuda": 20.0,
}


def measurements(cpu_ms, gpu_ms, **more) -> Measurements:
    return Measurements(
        transfer_us=TRANSFERS, median_ms={CPU_LOG: list(cpu_ms), GPU_LOG: list(gpu_ms), **more}
    )


def times_ms(cost, trees):
    """Return what a tree costs by counting its cells."""
    leaves = np.array([sum(map(bool, tree.words)) for tree in trees])
    return (
        leaves * cost["leaf"] + (leaves - 1) * cost["composer"] + (2 * leaves - 1) * cost["output"]
    ) / 1e6


def with_shares(leaf: int, inner: int) -> dict[str, int]:
    """Return costs of cells, given those of a leaf and an inner node with their outputs."""
    output = (leaf + inner) * 2 / 36  # 10 calls, 22, and twice 2
    return {
        "leaf": round(leaf - output),
        "composer": round(inner - output),
        "output": round(output),
    }


@pytest.mark.parametrize(
    ("leaf", "inner"), [(90_000, 90_000), (50_000, 220_000), (300_000, 90_000)]
)
def test_the_fit_recovers_what_made_the_logs(leaf, inner):
    cost = with_shares(leaf, inner)
    nodes = np.array([len(tree) for tree in TREES])
    found = fit_node_cost(nodes, times_ms(cost, TREES))
    for cell, duration_ns in cost.items():
        assert getattr(found, cell) == pytest.approx(duration_ns, abs=3)


def test_the_profile_repeats_the_logs_it_was_fitted_to():
    cpu, gpu = (
        times_ms(with_shares(80_000, 160_000), TREES),
        times_ms(with_shares(200_000, 260_000), TREES),
    )
    profile = fit_paper_node(measurements(cpu, gpu), TREES)
    for device, log_ms in enumerate((cpu, gpu)):
        assert predict_ms(profile, TREES, device) == pytest.approx(log_ms, rel=1e-3)
    assert profile.dispatch.host_mode == "single"
    assert profile.dispatch.h_copy == 2 * 20_000
    assert profile.provenance["error"]["fitted"][CPU_LOG]["mape"] < 1e-3


def test_noise_in_the_logs_averages_out():
    rng = np.random.default_rng(3)
    trees = generate_trees(500, 7)
    cost = with_shares(80_000, 160_000)
    log_ms = times_ms(cost, trees) * (1 + 0.05 * rng.standard_normal(500))
    found = fit_node_cost(np.array([len(tree) for tree in trees]), log_ms)
    pair_ns = sum(cost.values()) + cost["output"]
    assert found.leaf + found.composer + 2 * found.output == pytest.approx(pair_ns, rel=0.02)


def test_manual_splits_and_rewards_do_not_change_the_fit():
    cpu, gpu = (
        times_ms(with_shares(80_000, 160_000), TREES),
        times_ms(with_shares(200_000, 260_000), TREES),
    )
    plain = fit_paper_node(measurements(cpu, gpu), TREES)
    rng = np.random.default_rng(0)
    strange = {name: list(rng.uniform(1, 50, len(TREES))) for name in SPLIT_LOGS}
    other = measurements(cpu, gpu, **strange)
    other.paper_table_reward_ms = {"static-cpu": -1.0}
    again = fit_paper_node(other, TREES)
    assert (again.cluster, again.cells, again.dispatch) == (
        plain.cluster,
        plain.cells,
        plain.dispatch,
    )


def test_the_split_is_that_of_the_scheduler():
    profile = load_shipped("paper-a100")
    backend = SimBackend(profile)
    predicted = predict_ms(profile, TREES, 0, 1)
    for tree, ms in zip(TREES, predicted, strict=True):
        outcome = run(backend, GraphWorkload(paper_graph(tree)), make_scheduler("split-left-right"))
        assert outcome.trace.makespan_ns == round(1e6 * ms)


def test_the_split_of_a_small_tree_by_hand():
    """((a b) c) on CPU and GPU: the left sub-tree on the CPU, then c and the root on the GPU."""
    tree = read_tree("(1 (1 (1 a) (1 b)) (1 c))")
    assert left_nodes(tree) == 3
    assert left_nodes(read_tree("(1 a)")) == 0
    profile = load_shipped("paper-a100")
    cpu = {cell: profile.cells[cell]["cpu:0"].at(1) for cell in ("leaf", "composer", "output")}
    gpu = {cell: profile.dispatch.h[cell]["cuda:0"] for cell in ("leaf", "composer", "output")}
    expected_ns = 2 * cpu["leaf"] + cpu["composer"] + 3 * cpu["output"]
    expected_ns += profile.dispatch.h_copy  # the state goes over
    expected_ns += gpu["leaf"] + gpu["composer"] + 2 * gpu["output"] + paper_node.KERNEL_NS
    assert predict_ms(profile, [tree], 0, 1)[0] == pytest.approx(expected_ns / 1e6, abs=1e-9)


def test_bad_measurements_are_named(tmp_path):
    path = tmp_path / "measured.json"
    path.write_text("{}")
    with pytest.raises(CalibrationError, match=r"measured\.json: holds no such measurements"):
        read_measurements(path)
    flat = np.ones(60)
    with pytest.raises(CalibrationError, match="of other trees"):
        fit_paper_node(measurements(60 - np.arange(60), flat), sorted(TREES, key=len))
    with pytest.raises(CalibrationError, match="60 trees were measured but 3"):
        fit_paper_node(measurements(flat, flat), TREES[:3])
    with pytest.raises(CalibrationError, match="two or more times above 0"):
        fit_paper_node(measurements([1.0, float("nan")], flat), TREES)
    with pytest.raises(CalibrationError, match=f"no log '{GPU_LOG}'"):
        fit_paper_node(Measurements(transfer_us=TRANSFERS, median_ms={CPU_LOG: [1, 2]}), TREES)
    slow = {HOST: {**TRANSFERS[HOST], "cpu->cuda": 19.0}, "enqueue_only_cuda->cuda": 20.0}
    good = times_ms(with_shares(80_000, 160_000), TREES)
    for transfers in ({}, {"enqueue_only_cuda->cuda": 20.0}, slow):
        with pytest.raises(CalibrationError, match="transfer_4MB_float32_us"):
            logs = {CPU_LOG: list(good), GPU_LOG: list(good)}
            fit_paper_node(Measurements(transfer_us=transfers, median_ms=logs), TREES)


@needs_data
def test_the_shipped_file_is_what_the_fit_gives():
    measured = read_measurements(DATA / "paper_a100_measurements.json")
    trees = read_trees(DATA / "sst_trees_dev_part1.txt")
    fresh, shipped = fit_paper_node(measured, trees), load_shipped("paper-a100")
    assert fresh == shipped


@needs_data
def test_the_profile_predicts_splits_that_it_was_not_fitted_to():
    measured = read_measurements(DATA / "paper_a100_measurements.json")
    trees = read_trees(DATA / "sst_trees_dev_part1.txt")
    logs = {name: measured.log_ms(name) for name in SPLIT_LOGS}
    errors = held_out_errors(load_shipped("paper-a100"), logs, trees)
    mape = {name: float(np.abs(row).mean()) for name, row in errors.items()}
    assert mape["manual_1_sync_cpu_cuda0"] <= 0.07
    assert mape["manual_1_sync_cuda0_cuda1"] <= 0.015


def test_measurements_are_read_from_the_paper_file_format(tmp_path):
    path = tmp_path / "measured.json"
    content = {
        "source": "a test",
        "transfer_4MB_float32_us": TRANSFERS,
        "median_ms": {CPU_LOG: [1.0, 2.0]},
        "something else": 1,
    }
    path.write_text(json.dumps(content))
    measured = read_measurements(path)
    assert measured.source == "a test"
    assert measured.log_ms(CPU_LOG).tolist() == [1.0, 2.0]


def changed(profile, what):
    """Return the profile with one number 10 % larger."""
    dispatch, cells = profile.dispatch, profile.cells
    if what == "h_copy":
        return replace(profile, dispatch=replace(dispatch, h_copy=round(1.1 * dispatch.h_copy)))
    place, cell = what.split(" ")
    if place == "h":
        row = {name: round(1.1 * ns) for name, ns in dispatch.h[cell].items()}
        return replace(profile, dispatch=replace(dispatch, h={**dispatch.h, cell: row}))
    curve = cells[cell][place]
    slower = replace(curve, duration_ns=tuple(round(1.1 * ns) for ns in curve.duration_ns))
    return replace(profile, cells={**cells, cell: {**cells[cell], place: slower}})


def test_every_number_moves_what_it_should_move_and_nothing_else():
    profile = load_shipped("paper-a100")
    plans = {"cpu": (0, None), "gpu": (1, None), "cpu+gpu": (0, 1), "gpu+gpu": (1, 2)}
    before = {name: predict_ms(profile, TREES, *plan) for name, plan in plans.items()}
    moved = {}
    for what in ("h_copy", *(f"{p} {c}" for p in ("h", "cpu:0") for c in profile.cells)):
        after = {name: predict_ms(changed(profile, what), TREES, *p) for name, p in plans.items()}
        assert all((after[name] >= before[name]).all() for name in plans), what
        moved[what] = {name for name in plans if (after[name] > before[name]).any()}
    assert moved["h_copy"] == {"cpu+gpu", "gpu+gpu"}
    for cell in profile.cells:
        assert moved[f"h {cell}"] == {"gpu", "cpu+gpu", "gpu+gpu"}
        assert moved[f"cpu:0 {cell}"] == {"cpu", "cpu+gpu"}


@needs_data
def test_half_of_the_trees_predict_the_other_half():
    measured = read_measurements(DATA / "paper_a100_measurements.json")
    trees = read_trees(DATA / "sst_trees_dev_part1.txt")
    logs = {name: measured.log_ms(name) for name in (CPU_LOG, GPU_LOG)}
    half = measurements(logs[CPU_LOG][::2], logs[GPU_LOG][::2])
    profile = fit_paper_node(half, trees[: len(logs[CPU_LOG])][::2])
    for device, log_ms in enumerate(logs.values()):
        rest = log_ms[1::2]
        predicted = predict_ms(profile, trees[: len(log_ms)][1::2], device)
        assert np.abs(predicted / rest - 1).mean() < 0.01
