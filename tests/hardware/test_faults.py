"""A device that stops becomes an error soon, and no process or file is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch

from dynpartition import Launch, parse_devices
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput

TOYS = str(Path(__file__).parent / "toys")


def workers(backend):
    return [worker.process for worker in backend._machine.pool.workers]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def named_shared_memory(pid):
    """Return the mappings of shared files that would outlive their processes: they have a name."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    folders = ("/dev/shm/", f"{tempfile.gettempdir()}/")
    shared = [line for line in maps if " rw-s " in line and not line.endswith("(deleted)")]
    return [line for line in shared if any(folder in line for folder in folders)]


@pytest.mark.parametrize("device", ["cpu:0", "cpu:1"])
def test_a_raising_cell_is_reported_with_its_words(toy, toy_backend, device):
    pids = [worker.pid for worker in workers(toy_backend)]
    session = toy_backend.open(ModelInput(toy, [((1, 0), ()), ((1, -1), (0,))]))
    with pytest.raises(DeviceLost, match=f"{device} .*step: ValueError: the toy cell was"):
        session.advance([Launch("cpu:0", (0,)), Launch(device, (1,))])
    assert not any(is_alive(pid) for pid in pids)


def test_closing_twice_and_after_an_unfinished_session(toy):
    backend = HardwareBackend(toy, parse_devices("cpu:0,cpu:1"))
    processes = workers(backend)
    backend.open(ModelInput(toy, [((1, 0), ())]))
    backend.close()
    backend.close()
    assert all(process.poll() is not None for process in processes)


def test_a_forgotten_backend_ends_its_workers(toy):
    backend = HardwareBackend(toy, parse_devices("cpu:0,cpu:1"))
    processes = workers(backend)
    del backend
    assert all(process.poll() is not None for process in processes)


def test_a_worker_that_cannot_start_says_why(toy, monkeypatch):
    monkeypatch.setattr(type(toy), "__module__", "no_such_module")
    with pytest.raises(DeviceError, match=r"cpu:1 did not.*no_such_module.*try again") as caught:
        HardwareBackend(toy, parse_devices("cpu:0,cpu:1"))
    assert "\n" not in str(caught.value)
    assert "Traceback" in caught.value.__notes__[0]


def test_a_model_of_the_running_script_is_refused_for_workers(toy, monkeypatch):
    monkeypatch.setattr(type(toy), "__module__", "__main__")
    with pytest.raises(DeviceError, match="move it to the top level of a module"):
        HardwareBackend(toy, parse_devices("cpu:0,cpu:1"))


SCRIPT = """
    import sys
    sys.path.append({toys!r})
    import toy_models
    from dynpartition import Launch, parse_devices
    from dynpartition.hardware import HardwareBackend
    from dynpartition.models import ModelInput

    model = toy_models.Toy(toy_models.ModelConfig())
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1")) as backend:
        with backend.open(ModelInput(model, [((1, 120_000), ())])) as session:
            print(*(worker.process.pid for worker in backend._machine.pool.workers), flush=True)
            session.advance([Launch("cpu:1", (0,))])
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "stopped"),
    [(signal.SIGKILL, False), (signal.SIGINT, False), (signal.SIGKILL, True)],
)
def test_workers_end_with_their_caller(number, stopped):
    script = textwrap.dedent(SCRIPT.format(toys=TOYS))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as caller:
        pids = [int(word) for word in caller.stdout.readline().split()]
        assert pids
        assert all(is_alive(pid) for pid in pids)
        assert not any(named_shared_memory(pid) for pid in (caller.pid, *pids))
        time.sleep(0.3)  # into the launch, most likely
        if stopped:
            os.kill(pids[0], signal.SIGSTOP)
        caller.send_signal(number)
        _, errors = caller.communicate(timeout=60)
    deadline_s = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in pids)
    if number == signal.SIGINT:
        assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"


def test_the_callers_thread_gets_its_settings_back(toy, toy_backend, two_threads):
    settings = (torch.get_num_threads(), os.sched_getaffinity(0), torch.is_inference_mode_enabled())
    with toy_backend.open(ModelInput(toy, [((1, 0), ())])) as session:
        session.advance([Launch("cpu:1", (0,))])
    after = (torch.get_num_threads(), os.sched_getaffinity(0), torch.is_inference_mode_enabled())
    assert after == settings


def test_closing_a_session_ends_a_device_that_does_not_stop(toy, toy_backend, monkeypatch):
    monkeypatch.setattr("dynpartition.hardware.execution.ABORT_TIMEOUT_S", 0.3)
    (process,) = workers(toy_backend)
    session = toy_backend.open(ModelInput(toy, [((1, 0), ())]))
    # As `advance` does it, but without waiting for the end.
    session._execution.append(session._blueprint.extend([Launch("cpu:1", (0,))]))
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # it stands still now, as in an endless launch
    session.close()
    assert process.poll() == -signal.SIGKILL
