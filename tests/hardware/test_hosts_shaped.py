"""Two network namespaces as two hosts, and a link between them that is really slow.

namespace a: rank 0, cpu:0  ══ veth, 40 Mbit/s ══  namespace b: rank 1, host1/cpu:0
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.hardware.test_hosts import SCRIPT, WHOLE_RUN_S

RATE_BYTES_PER_S = 40_000_000 // 8
BURST_BYTES = 32_768
"""What passes at once before the rate holds."""
ADDRESS = ("10.77.203.1", "10.77.203.2")


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def namespaces():
    """Two namespaces with a shaped link between them, or a skip that says why not."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("needs root, ip and tc to make network namespaces")
    names = [f"dyp{os.getpid()}{end}" for end in "ab"]
    with ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            ends = ("netns", names[0], "type", "veth", "peer", "name", "w1", "netns", names[1])
            ip("link", "add", "w0", *ends)
            for number, name in enumerate(names):
                ip("-n", name, "addr", "add", f"{ADDRESS[number]}/24", "dev", f"w{number}")
                ip("-n", name, "link", "set", f"w{number}", "up")
                ip("-n", name, "link", "set", "lo", "up")
                shape = f"tbf rate {RATE_BYTES_PER_S}bps burst {BURST_BYTES} latency 400ms".split()
                command = ["tc", "-n", name, "qdisc", "add", "dev", f"w{number}", "root", *shape]
                subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel makes no shaped link: {error.stderr.strip()}")
        yield names


def start(name, number, file):
    """Start torchrun of one node in its namespace."""
    options = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESS[0]}:29471"]
    options += ["--rdzv-conf", f"is_host={1 - number}", "--local-addr", ADDRESS[number]]
    options += ["--log-dir", str(file.parent / f"logs{number}")]
    words = [sys.executable, "-m", "torch.distributed.run", *options, str(SCRIPT), str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"w{number}"}
    return subprocess.Popen(
        ["ip", "netns", "exec", name, *words, "shaped"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def strike(namespaces, number, part=""):
    """Send a signal to the processes of namespaces whose command line has a part."""
    for pid in [pid for name in namespaces for pid in ip("netns", "pids", name).split()]:
        with suppress(ProcessLookupError, FileNotFoundError):
            if part in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(int(pid), number)


def test_transfers_between_hosts_take_the_time_of_their_link(namespaces, tmp_path):
    """Nothing is faster than the link allows, however busy the machine."""
    file = tmp_path / "moved.json"
    nodes = [start(name, number, file) for number, name in enumerate(namespaces)]
    try:
        said = [node.communicate(timeout=WHOLE_RUN_S)[0] for node in nodes]
    except subprocess.TimeoutExpired:
        strike(namespaces, signal.SIGUSR1, f"-u\0{SCRIPT}")  # ranks write where they are
        time.sleep(1)
        strike(namespaces, signal.SIGKILL)
        pytest.fail("\n".join(node.communicate()[0] for node in nodes))
    finally:
        strike(namespaces, signal.SIGKILL)
        for node in nodes:
            node.wait()
            node.stdout.close()
    assert [node.returncode for node in nodes] == [0, 0], said
    large = [(size, ns) for size, ns in json.loads(file.read_text()) if size > 4 * BURST_BYTES]
    assert len(large) >= 3
    for size, ns in large:
        # What was sent just before may have left room in the burst, and clocks differ by ms.
        least_ns = (size - BURST_BYTES) * 1e9 / RATE_BYTES_PER_S
        assert ns > 0.7 * least_ns, (size, ns)
