"""The report page in headless Chromium: no errors, no network, and what its script does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from dynpartition import Cell, LaunchSpan, Task, TaskGraph, Trace
from dynpartition.cli.page import run_page, traces_page
from dynpartition.cli.page_style import SCRIPT
from dynpartition.cli.run_folder import read_run_folder
from dynpartition.cli.timeline import Run
from tests.core.test_report import HOSTILE, graph, trace, write_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)

OWN = re.compile(r"https?://[\w.-]*\.(google|googleapis|gstatic|gvt1)\.com/")
"""What the browser asks for on its own account, whatever it shows."""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


class Seen(NamedTuple):
    """What a browser made of a page."""

    dom: str
    said: list[str]
    """What stood on the console."""
    fetched: list[str]
    """What it asked for besides the file."""


def browse(path: Path, *options: str) -> Seen:
    """Open a file in a browser of its own, until everything is loaded."""
    log = path.with_suffix(".netlog")
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",  # in containers tests run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
        f"--user-data-dir={path.parent / 'browser'}",
        "--window-size=1200,4000",
        "--virtual-time-budget=3000",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
        *options,
        "--dump-dom",
        path.as_uri(),
    ]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=100)
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    events = json.loads(log.read_text())["events"]
    urls = {event.get("params", {}).get("url", "") for event in events}
    fetched = sorted(u for u in urls if re.match("https?:|wss?:|ftp:", u) and not OWN.match(u))
    return Seen(ran.stdout, said, fetched)


def test_the_watch_sees_errors_and_requests(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><img src='http://127.0.0.1:9/x.png'><script>nothing.at.all</script>"
    )
    seen = browse(page)
    assert "http://127.0.0.1:9/x.png" in seen.fetched
    assert "nothing is not defined" in "\n".join(seen.said)


@pytest.mark.parametrize("name", ["policy", HOSTILE])
def test_a_run_renders_without_errors_and_network(tmp_path, name):
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(run_page(read_run_folder(write_run(tmp_path / "run", text=name))))
    seen = browse(page, f"--screenshot={picture}")
    assert seen.said == []
    assert seen.fetched == []
    assert seen.dom.count('class="zoom"') == 1  # the script has run
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 50_000  # an empty page of that size has 5 kB


def test_a_page_may_fetch_nothing_even_if_it_asks(tmp_path):
    page = tmp_path / "page.html"
    text = traces_page(graph(), [Run("a", trace())])
    page.write_text(text.replace("<main>", "<main><img src='http://127.0.0.1:9/x.png'>"))
    seen = browse(page)
    assert seen.fetched == []
    assert "Content Security Policy" in "\n".join(seen.said)


PROBE = """
const svg = document.querySelector(".plot svg"), bar = document.querySelector(".launch");
const place = bar.getBoundingClientRect(), told = [];
const at = { clientX: place.x + place.width / 2, clientY: place.y + 5, bubbles: true };
bar.dispatchEvent(new PointerEvent("pointermove", at));
told.push(document.querySelector(".tip").textContent, document.querySelectorAll(".same").length);
document.body.dispatchEvent(new PointerEvent("pointermove", { ...at, clientX: 1 }));
told.push(document.querySelector(".tip").hidden, document.querySelectorAll(".same").length);
document.querySelector("[aria-label='zoom in'], .zoom button:nth-child(2)").click();
told.push(svg.getAttribute("viewBox").split(" ").map(Number).slice(0, 3));
told.push([...document.querySelectorAll(".plot svg")].every(
  other => other.getAttribute("viewBox") === svg.getAttribute("viewBox")));
svg.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, ctrlKey: true, cancelable: true,
  clientX: svg.getBoundingClientRect().x }));
told.push(svg.getAttribute("viewBox").split(" ").map(Number).slice(0, 3));
svg.dispatchEvent(new PointerEvent("pointermove", { buttons: 1, movementX: 1e6 }));
told.push(svg.viewBox.baseVal.x, svg.nextElementSibling.firstChild.textContent);
svg.dispatchEvent(new MouseEvent("dblclick"));
told.push(svg.getAttribute("viewBox").split(" ").map(Number).slice(0, 3));
const answer = document.createElement("pre");
answer.id = "answer";
answer.textContent = JSON.stringify(told);
document.body.append(answer);
"""


TOUCH = """
const svg = document.querySelector(".plot svg"), bar = document.querySelector(".launch");
const bubble = document.querySelector(".tip"), told = [];
const edge = () => told.push(svg.classList.contains("dense"), getComputedStyle(bar).stroke);
edge();
for (let i = 0; i < 5; i++) document.querySelector("[aria-label='zoom in']").click();
edge();
document.querySelector("[aria-label='show everything']").click();
edge();
const touch = { bubbles: true, pointerType: "touch", buttons: 1 };
bar.dispatchEvent(new PointerEvent("pointerdown", touch));
told.push(bubble.textContent);
document.documentElement.dispatchEvent(new PointerEvent("pointerleave", touch));
told.push(bubble.hidden);
document.body.dispatchEvent(new PointerEvent("pointerdown", touch));
told.push(bubble.hidden);
"""


def test_thin_bars_have_no_edges_that_hide_them_and_a_touch_tells_too(tmp_path):
    """Edges keep their width when bars become thinner than a pixel."""
    tasks = [Task(id=i, cell="leaf", inputs=(), output_bytes=1) for i in range(1000)]
    many = TaskGraph.from_tasks("many", [Cell("leaf")], tasks)
    launches = tuple(LaunchSpan("cpu:0", (i,), 10 * i, 10 * i + 9) for i in range(1000))
    run = Run("sim", Trace(9999, launches, (), ()))
    page = tmp_path / "page.html"
    answer = 'document.body.append(Object.assign(document.createElement("pre"), { id: "answer",'
    answer = f"{TOUCH}{answer} textContent: JSON.stringify(told) }}));"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", traces_page(many, [run]))
    page.write_text(text.replace("</body>", f"<script>{answer}</script></body>"))
    seen = browse(page)
    assert seen.said == []
    found = re.search(r'<pre id="answer">(.*?)</pre>', seen.dom)
    assert found is not None
    before, stroke, zoomed, edge, back, _, tip, kept, gone = json.loads(found[1])
    assert (before, zoomed, back) == (True, False, True)
    assert stroke == "none" != edge
    assert tip == "leaf, task 0\ncpu:0, 0 ns to 9.00 ns, 9.00 ns"
    assert (kept, gone) == (False, True)


def test_hovering_tells_and_marks_and_zooming_moves_all_runs_together(tmp_path):
    page = tmp_path / "page.html"
    text = run_page(read_run_folder(write_run(tmp_path / "run")))
    assert text.count(SCRIPT) == 1
    # The policy of the page lets only its own script run.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    seen = browse(page)
    assert seen.said == []
    found = re.search(r'<pre id="answer">(.*?)</pre>', seen.dom)
    assert found is not None
    tip, marked, is_hidden, left, zoomed, together, wheeled, x, first, whole = json.loads(found[1])
    assert tip == "leaf, task 11\ncpu:0, 0 ns to 500 µs, 500 µs"
    assert (marked, is_hidden, left) == (2, True, 0)  # once in each run
    assert zoomed == [2500, 0, 5000]
    assert together
    assert wheeled[0] == pytest.approx(2500, abs=1)
    assert wheeled[2] == pytest.approx(4000)
    assert (x, first) == (0, "0 µs")
    assert whole == [0, 0, 10000]
