"""What mutants are judged by: random worlds with known ends, an oracle, and tests.

A mutant of the reference or of the kernel is killed by a world that ends otherwise than before: the
two share no code, and a test compares them on the same worlds. What both stand on (the lowering and
the prices) must end as the oracle of the tests says. Survivors meet the test files of `TESTS`.
"""

from __future__ import annotations

import ast
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

from dynpartition.errors import OutOfDeviceMemory
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph
from dynpartition.program import lower
from dynpartition.sim import batch, kernel, reference, world_maker, worlds
from dynpartition.sim.kernel_pack import ProgramWorld, is_plain
from dynpartition.trace import Trace
from tests.sim import oracle
from tools.mutation_operators import Mutant

REFERENCE, KERNEL, SHARED = "reference", "kernel", "shared"
MODULES = {
    **dict.fromkeys(
        ("sim/clock", "sim/links", "sim/host", "sim/memory", "sim/reference"), REFERENCE
    ),
    **dict.fromkeys(("sim/kernel", "sim/kernel_pack", "sim/kernel_trace", "sim/batch"), KERNEL),
    **dict.fromkeys(("core/program", "core/buffers", "core/pricing", "core/residency"), SHARED),
    **dict.fromkeys(("core/costs", "core/luck"), SHARED),
}
"""Module → which judge it needs."""

GAPS = "tests/sim/test_mutation_gaps.py"
SMALL = tuple(f"tests/sim/test_{name}.py" for name in ("small_worlds", "small_memories", "losses"))
TESTS = {
    REFERENCE: (GAPS, *SMALL),
    KERNEL: (GAPS,),
    SHARED: (GAPS, "tests/core/test_costs.py", "tests/core/test_program.py", *SMALL),
}
"""Test files that survivors of the worlds meet."""

WORLD_S, TESTS_S, SLOW_S = 2.0, 120.0, 1.5
"""Processor time that one world, and all tests, may take; longer tests are left out."""
PRELOADED = ("dynpartition", "hypothesis", "tyro", "rich", "scipy")
"""Packages that tests load."""
BATCHES, BATCH = 12, 16
GARBAGE = 99_991
"""What the kernel's state holds before a run."""


def import_name(module: str) -> str:
    """Return the import name of a file: the folder core is the package itself."""
    return f"dynpartition.{module}".replace("/", ".").replace(".core.", ".")


def limit_s(seconds: float) -> None:
    """End this process if it computes for longer than that from now on."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


class Bench:
    """The worlds, how they end, and what they reach in every module."""

    def __init__(self, n_worlds: int) -> None:
        self.seeds = range(n_worlds)
        self.trees: dict[str, ast.Module] = {}
        self.modules = {name: importlib.import_module(import_name(name)) for name in MODULES}
        for name, module in self.modules.items():
            self.trees[name] = ast.parse(Path(str(module.__file__)).read_bytes())
        self.worlds = [world_maker.random_world(seed) for seed in self.seeds]
        self.parts = [_lowered(world) for world in self.worlds]
        self.plain = [is_plain(parts) for parts in self.parts]
        self.ends: dict[str, list[str]] = {}
        self.reached: dict[str, list[int]] = {name: [] for name in MODULES}
        """Module → for each world the lines that it reaches, as bits."""
        _prepare_kernel()
        self._note_ends()
        told = _in_child(_useless_tests)
        self.failing = [line[1:] for line in told if line[0] == "!"]
        self.slow = [line[1:] for line in told if line[0] == "~"]
        """Tests that fail already or take long: they are left out."""
        for line in told:
            if line[0] == "+":
                importlib.import_module(line[1:])  # here, so that not every child does
        self._loaded = _Loaded()
        self.batches = list(self._batches())
        self.batch_ends = [_batch_ends(*each) for each in self.batches]

    def _note_ends(self) -> None:
        paths = {str(module.__file__): name for name, module in self.modules.items()}
        reached = dict.fromkeys(paths, 0)
        for kind in (REFERENCE, KERNEL, SHARED):
            self.ends[kind] = []
        for number in self.seeds:
            with _Tracing(reached):
                shared = happened(_simulated(self.worlds[number]))
                kernel_end = _kernel_end(self.parts[number])
            self.ends[REFERENCE].append(_reference_end(self.parts[number]))
            self.ends[KERNEL].append(kernel_end)
            self.ends[SHARED].append(shared)
            for path, lines in reached.items():
                self.reached[paths[path]].append(lines)
                reached[path] = 0
        self.oracle_ends = [_oracle_end(world) for world in self.worlds]

    def disagreements(self) -> list[str]:
        """Return what is wrong before anything is changed: tests and worlds that say nothing."""
        found = [f"{test} fails already" for test in self.failing]
        found += [f"{test} takes long and is left out" for test in self.slow]
        for number, end in enumerate(self.ends[REFERENCE]):
            if self.ends[KERNEL][number] not in (end, "OverflowError"):
                found.append(f"world {number}: kernel and reference differ")
            if self.oracle_ends[number] not in (self.ends[SHARED][number], "too long"):
                found.append(f"world {number}: oracle and reference differ")
        return found

    def _batches(self) -> Iterator[tuple[list[ProgramWorld], bool]]:
        fits = [n for n in self.seeds if self.ends[KERNEL][n] != "OverflowError"]
        plain = [n for n in fits if self.plain[n]][: 4 * BATCH]
        mixed = fits[: BATCH * (BATCHES - 4)]
        for numbers, flag in ((plain, True), (mixed, True), (plain[: 2 * BATCH], False)):
            for at in range(0, len(numbers), BATCH):
                yield [self.parts[n] for n in numbers[at : at + BATCH]], flag

    # In the child

    def judge(self, name: str, mutant: Mutant, most: int) -> tuple[str, str]:
        """Apply a mutant; return (killed, survived or not reached, by what)."""
        kind = MODULES[name]

        limit_s(10 * WORLD_S)
        try:
            mutant.apply()
            again = self._loaded.run_again(import_name(name), self.trees[name])
        except Exception as error:  # noqa: BLE001
            return "killed", f"import: {type(error).__name__}"
        warnings.simplefilter("error")
        _prepare_kernel()
        numbers = self.reaching(name, mutant)
        for number in numbers[:most]:
            limit_s(WORLD_S)
            if self._differs(kind, number, again):
                return "killed", f"world {number}"
        for number, (worlds_, plain) in enumerate(self.batches if kind == KERNEL else ()):
            limit_s(BATCH * WORLD_S)
            if _attempt(lambda w=worlds_, p=plain: _batch_ends(w, p)) != self.batch_ends[number]:
                return "killed", f"batch {number}"
        limit_s(TESTS_S)
        options = ["-x", *(f"--deselect={test}" for test in (*self.failing, *self.slow))]
        if _run_tests(TESTS[kind], options).found:
            return "killed", "tests"
        return "survived", f"{min(len(numbers), most)} worlds"

    def reaching(self, name: str, mutant: Mutant) -> list[int]:
        """Return the worlds that reach a mutant."""
        if not mutant.in_function:
            return list(self.seeds)
        found: list[int] = []
        for node in (mutant, mutant.statement):
            first = node.line if isinstance(node, Mutant) else node.lineno
            last = node.end_line if isinstance(node, Mutant) else (node.end_lineno or first)
            lines = (1 << last + 1) - (1 << first)
            found = found or [n for n, own in enumerate(self.reached[name]) if own & lines]
        return found

    def _differs(self, kind: str, number: int, again: set[str]) -> bool:
        if kind == REFERENCE:
            return _attempt(lambda: _reference_end(self.parts[number])) != self.ends[kind][number]
        if kind == KERNEL:
            return _attempt(lambda: _kernel_end(self.parts[number])) != self.ends[kind][number]
        if self.oracle_ends[number] != self.ends[kind][number]:
            return False  # too long for the oracle, or it differs already
        remade = world_maker.__name__ in again
        world = world_maker.random_world(number) if remade else self.worlds[number]
        expected = self.oracle_ends[number]
        if oracle.__name__ in again:
            expected = _attempt(lambda: _oracle_end(world))
        return _attempt(lambda: happened(_simulated(world))) != expected


def _attempt(run: Callable[[], Any]) -> Any:
    """Return what `run` returns, or the name of its error."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001
        return f"raised {type(error).__name__}"


def _lowered(world: world_maker.World) -> ProgramWorld:
    priced = PricedGraph(world.graph, world.profile)
    program = lower(world.graph, world.profile.cluster, world.plan)
    return ProgramWorld(priced, program, price(program, priced, world.conditions))


def _reference_end(parts: ProgramWorld) -> str:
    try:
        machine = reference.Machine(*parts)
        machine.run()
        return repr(machine.trace())
    except OutOfDeviceMemory as error:
        return str(error)


def _kernel_end(parts: ProgramWorld) -> str:
    try:
        packed = batch.pack([parts])
    except OverflowError:
        return "OverflowError"
    try:
        return repr(batch.run_batch(packed).trace(0))
    except OutOfDeviceMemory as error:
        return str(error)


def _batch_ends(parts: list[ProgramWorld], plain: bool) -> list[str]:
    packed = batch.pack(parts, plain=plain)
    result = batch.run_batch(packed)
    errors = [result.error(number) for number in range(len(parts))]
    ends = [str(e) if e else repr(result.trace(n)) for n, e in enumerate(errors)]
    return [*ends, str(batch.run_batch(packed, recording=False).makespan_ns.tolist())]


def _simulated(world: world_maker.World) -> Trace | str:
    return worlds.outcome(reference.simulate, world)


def _oracle_end(world: world_maker.World) -> str:
    try:
        run = oracle.Oracle(world.graph, world.profile, world.plan, world.conditions)
        return happened(run.run())
    except OutOfDeviceMemory:
        return "out of memory"
    except AssertionError:
        return "too long"  # for a simulator that goes by single nanoseconds


def happened(end: Trace | str) -> str:
    """Return everything in a trace, but for the order in which it is listed."""
    if isinstance(end, str):
        return "out of memory"
    moved = [
        (s.src, s.dst, sorted(s.tasks), s.bytes, s.start_ns, s.end_ns, s.host_input)
        for s in end.transfers
    ]
    others = [sorted(map(repr, row)) for row in (end.dispatches, end.reveals, end.loads)]
    return repr((end.makespan_ns, end.launches, sorted(moved), *others))


def _prepare_kernel() -> None:
    """Let the kernel work on lists, which Python reads faster, over a state full of garbage."""
    if hasattr(kernel.run_worlds, "reads_lists"):
        return
    run, run_plain = kernel.run_worlds, kernel.run_plain_worlds
    condense, make = kernel.condense_worlds, batch.make_state

    def run_worlds(t: Any, s: Any, rows: Any, shared: Any, chosen: Any, *out: Any) -> None:
        state = s.tolist()
        run(t.tolist(), state, rows.tolist(), shared.tolist(), chosen.tolist(), *out)
        s[:] = state

    def run_plain_worlds(t: Any, s: Any, rows: Any, shared: Any, *out: Any) -> None:
        state = s.tolist()
        run_plain(t.tolist(), state, rows.tolist(), shared.tolist(), *out)
        s[:] = state

    def condense_worlds(t: Any, rows: Any, plain: Any) -> None:
        tables = t.tolist()
        condense(tables, rows.tolist(), plain.tolist())
        t[:] = tables

    def make_state(places: Any, **facts: Any) -> Any:
        state, shared = make(places, **facts)
        state.fill(GARBAGE)
        return state, shared

    run_worlds.reads_lists = True  # type: ignore[attr-defined]
    kernel.run_worlds, kernel.run_plain_worlds = run_worlds, run_plain_worlds
    kernel.condense_worlds, batch.make_state = condense_worlds, make_state


def _useless_tests() -> list[str]:
    files = dict.fromkeys(file for files in TESTS.values() for file in files)
    before = set(sys.modules)
    noted = _run_tests(tuple(files), [])
    loaded = [name for name in sys.modules if name not in before and name.startswith(PRELOADED)]
    return [
        *(f"!{test}" for test in noted.found),
        *(f"~{test}" for test in noted.slow),
        *(f"+{name}" for name in loaded),
    ]


def _in_child(run: Callable[[], list[str]]) -> list[str]:
    """Return what `run` returns in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, "\n".join(run()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = file.read().decode()
    os.waitpid(pid, 0)
    return told.splitlines()


class _Failures:
    """A plugin of pytest that notes which tests fail, or take long."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.slow: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails, cannot be set up, or takes long."""
        if report.failed:
            self.found.append(report.nodeid)
        elif report.duration > SLOW_S:
            self.slow.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be read."""
        if report.failed:
            self.found.append(report.nodeid)


def _run_tests(files: tuple[str, ...], options: list[str]) -> _Failures:
    """Run tests silently, in a process that does nothing else any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    found = [file for file in files if Path(file).exists()]
    failures = _Failures()
    quiet = ["-q", "-p", "no:cacheprovider", "-o", "timeout=0", "--import-mode=importlib"]
    quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # modules are loaded already
    if found:
        pytest.main([*quiet, *options, *found], plugins=[failures])
    return failures


class _Loaded:
    """The loaded modules of the project, as code that can be run again."""

    def __init__(self) -> None:
        self._code: dict[str, CodeType] = {}
        self._imports: dict[str, set[str]] = {}
        for name, module in sorted(sys.modules.items()):
            if name.split(".")[0] in ("dynpartition", "tests") and getattr(
                module, "__file__", None
            ):
                tree = ast.parse(Path(str(module.__file__)).read_bytes())
                self._code[name] = compile(tree, str(module.__file__), "exec")
                self._imports[name] = set(_imports(tree))
        self._rank = {name: rank for rank, name in enumerate(self._in_order())}

    def _in_order(self) -> list[str]:
        done: list[str] = []

        def add(name: str) -> None:
            if name not in done:
                for other in sorted(self._imports[name] & self._code.keys()):
                    add(other)
                done.append(name)

        for name in self._code:
            add(name)
        return done

    def run_again(self, name: str, tree: ast.Module) -> set[str]:
        """Run a changed module and then all that import it; return those."""
        module = sys.modules[name]
        _execute(module, compile(tree, str(module.__file__), "exec"))
        users: set[str] = set()
        fresh = {name}
        while fresh:
            fresh = {user for user, own in self._imports.items() if own & fresh} - users
            users |= fresh
        for user in sorted(users - {name}, key=self._rank.__getitem__):
            _execute(sys.modules[user], self._code[user])
        return users


def _execute(module: ModuleType, code: CodeType) -> None:
    exec(code, module.__dict__)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules, or names in modules, that a module imports when it is loaded."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


class _Tracing:
    """Notes the lines of some files that run inside a `with` block."""

    def __init__(self, reached: dict[str, int]) -> None:
        self._reached = reached

    def __enter__(self) -> None:
        sys.settrace(self._called)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename in self._reached else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        self._reached[frame.f_code.co_filename] |= 1 << frame.f_lineno
        return self._line
