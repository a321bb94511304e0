"""The look of the report page, and the script that zooms its timelines."""

STYLE = """
:root { color-scheme: light dark;
  --page:#fbfbf9; --card:#ffffff; --ink:#1c2127; --muted:#69727d; --rule:#e4e4df; --band:#f4f4f0;
  --accent:#2f6690; --accent-soft:#b9cfdf; --good:#3a7d54; --bad:#b3473f; --warn:#a8741a;
  --transfer:#8a94a0; --host-input:#c3c9d0; --load:#7f8f2f; --reveal:#b3473f;
  --edge:rgb(255 255 255/.75);
  --c0:#4269a8; --c1:#d9962b; --c2:#4f9a67; --c3:#c65f4e; --c4:#8466b0; --c5:#4fa3a8;
  --c6:#8f6b4f; --c7:#b55d8d; }
@media (prefers-color-scheme: dark) { :root {
  --page:#14171a; --card:#1b1f23; --ink:#e3e6e8; --muted:#929ba4; --rule:#2d3338; --band:#22272b;
  --accent:#7db1d8; --accent-soft:#34506a; --good:#7cc096; --bad:#e08a80; --warn:#d9b064;
  --transfer:#7a858f; --host-input:#4d565e; --load:#a5b455; --reveal:#e08a80;
  --edge:rgb(0 0 0/.55);
  --c0:#6c93d1; --c1:#dda74f; --c2:#6fb386; --c3:#d97f6f; --c4:#a58bcd; --c5:#6fbdc1;
  --c6:#b08d70; --c7:#cc82aa; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink);
  font:15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric:tabular-nums; }
main { max-width:1120px; margin:0 auto; padding:40px 24px 64px; }
header { margin-bottom:28px; }
.eyebrow { margin:0 0 4px; color:var(--muted); font-size:13px; letter-spacing:.04em; }
h1 { margin:0; font-size:28px; line-height:1.25; font-weight:650; letter-spacing:-.01em;
  overflow-wrap:anywhere; }
h2 { margin:0 0 4px; font-size:18px; font-weight:620; }
h3 { margin:16px 0 6px; font-size:14px; font-weight:600; }
p { margin:0 0 12px; max-width:76ch; }
.muted, small, .note { color:var(--muted); } .note { font-size:13.5px; margin-bottom:6px; }
section { background:var(--card); border:1px solid var(--rule); border-radius:10px;
  padding:20px 24px; margin:0 0 20px; overflow-x:auto; }
.facts { display:grid; grid-template-columns:repeat(auto-fill, minmax(220px, 1fr)); gap:16px;
  margin:24px 0 0; padding:0; }
.facts div { border-top:2px solid var(--accent); padding-top:8px; }
.facts dt { color:var(--muted); font-size:13px; } .facts dd { margin:0; font-size:24px;
  font-weight:600; letter-spacing:-.01em; }
.facts dd small { display:block; font-size:13px; font-weight:400; letter-spacing:0; }
.pair { display:grid; gap:8px 32px;
  grid-template-columns:repeat(auto-fit, minmax(min(360px, 100%), 1fr)); }
table { border-collapse:collapse; width:100%; margin:8px 0 4px; font-size:14px; }
th { text-align:left; color:var(--muted); font-weight:500; font-size:13px;
  border-bottom:1px solid var(--rule); padding:4px 14px 6px 0; vertical-align:bottom; }
table + table { margin-top:22px; } h3 small { font-weight:400; margin-left:6px; }
td { border-bottom:1px solid var(--rule); padding:6px 14px 6px 0; vertical-align:middle; }
tr:last-child td { border-bottom:0; } th:last-child, td:last-child { padding-right:0; }
.number { text-align:right; white-space:nowrap; } td svg { display:block; }
tr.best td { font-weight:600; } td small { font-weight:400; }
.number + td:not(.number), .number + th:not(.number) { padding-left:18px; }
code { font:13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap:anywhere; }
.missing { color:var(--muted); border:1px dashed var(--rule); border-radius:6px;
  padding:8px 12px; margin:8px 0 0; max-width:none; font-size:14px; }
.status::before { content:""; display:inline-block; width:8px; height:8px; border-radius:50%;
  margin-right:8px; background:var(--muted); }
.done::before { background:var(--good); } .failed::before { background:var(--bad); }
.running::before, .interrupted::before { background:var(--warn); }
.legend { display:flex; flex-wrap:wrap; gap:4px 18px; list-style:none; margin:10px 0 0; padding:0;
  font-size:13px; overflow-wrap:anywhere; }
.legend i { display:inline-block; width:11px; height:11px; border-radius:2px; margin-right:6px; }
.legend .zoom { margin-left:auto; }
button { font:inherit; font-size:13px; color:var(--ink); background:var(--band); cursor:pointer;
  border:1px solid var(--rule); border-radius:5px; padding:1px 10px; margin-left:4px; }
.timeline { margin:14px 0 0; display:grid; grid-template-columns:max-content minmax(420px, 1fr);
  column-gap:14px; }
figcaption { grid-column:1/3; margin-bottom:6px; font-size:14px; }
.lanes { min-width:128px; max-width:220px; font-size:13px; line-height:1.25; text-align:right; }
.lanes div { display:flex; flex-direction:column; justify-content:center; }
.lanes span { overflow:hidden; text-overflow:ellipsis; white-space:nowrap; }
.lanes small { font-size:11.5px; white-space:nowrap; } .lanes .thin { color:var(--muted);
  font-size:12px; }
.plot svg { display:block; width:100%; cursor:grab; touch-action:pan-y; }
.plot svg:active { cursor:grabbing; }
.plot line { vector-effect:non-scaling-stroke; } .plot .grid line { stroke:var(--rule); }
.band { fill:var(--band); } .transfer { fill:var(--transfer); }
.transfer.host-input { fill:var(--host-input); } .transfer.load { fill:var(--load); }
.launch { stroke:var(--edge); stroke-width:.8; vector-effect:non-scaling-stroke; }
.dense .launch { stroke:none; }
.launch:hover, .transfer:hover { filter:brightness(1.18); }
.same { stroke:var(--ink); stroke-width:2; vector-effect:non-scaling-stroke; }
.tip { position:fixed; z-index:9; pointer-events:none; max-width:360px; padding:6px 10px;
  font-size:12.5px; line-height:1.4; white-space:pre-line; overflow-wrap:anywhere;
  color:var(--page); background:var(--ink); border-radius:6px; }
.tip[hidden] { display:none; }
.cluster { display:block; width:100%; max-width:760px; margin:8px auto 4px; }
.cluster .link { stroke:var(--transfer); } .cluster .link:hover { stroke:var(--ink); }
.cluster rect { fill:var(--band); stroke:var(--rule); stroke-width:1.5; }
.cluster .cuda rect { stroke:var(--c2); } .cluster .cpu rect { stroke:var(--c0); }
.cluster text { fill:var(--muted); font-size:12px; paint-order:stroke; stroke:var(--card);
  stroke-width:9px; stroke-linejoin:round; }
.cluster .device text { stroke:none; }
.cluster .device rect + text { fill:var(--ink); font-size:14px; font-weight:600; }
.reveal { stroke:var(--reveal); stroke-dasharray:3 3; stroke-width:1.2; }
.end { stroke:var(--ink); stroke-width:1.5; }
.axis { position:relative; height:20px; font-size:11.5px; color:var(--muted); overflow:hidden; }
.axis span { position:absolute; transform:translateX(-50%); white-space:nowrap; }
.axis span[style="left:0.000%"], .axis span[style="left: 0%;"] { transform:none; }
.chart { display:block; width:100%; max-width:560px; } .chart .grid line { stroke:var(--rule); }
.chart text { fill:var(--muted); font-size:11.5px; } .chart .name { font-size:12px; }
.chart polyline { fill:none; stroke:var(--accent); stroke-width:2; stroke-linejoin:round; }
.chart polyline.raw { stroke:var(--accent-soft); stroke-width:1; }
.chart polyline.validation { stroke:var(--c1); stroke-width:1.5; }
.chart circle.validation { fill:var(--c1); } .case { fill-opacity:.75; stroke:var(--card); }
.zero { stroke:var(--muted); stroke-dasharray:4 3; } .diagonal { stroke:var(--muted); }
.bar { fill:var(--accent-soft); } .best { fill:var(--accent); }
.whisker { stroke:var(--ink); stroke-width:1.5; }
footer { color:var(--muted); font-size:13px; }
@media print { body { background:none; } section { break-inside:avoid; } button { display:none; } }
"""

SCRIPT = """
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of document.querySelectorAll("svg title")) {
  const shape = title.parentNode;
  shape.dataset.tip = title.textContent;
  shape.setAttribute("aria-label", title.textContent);
  title.remove();
}
let marked = [];
const tell = (e, moves) => {
  const shape = e.target.closest && e.target.closest("[data-tip]");
  for (const other of marked) other.classList.remove("same");
  marked = [];
  tip.hidden = !shape || moves;
  if (tip.hidden) return;
  tip.textContent = shape.dataset.tip;
  const right = e.clientX + 14 + tip.offsetWidth > innerWidth;
  const below = e.clientY + 18 + tip.offsetHeight > innerHeight;
  tip.style.left = Math.max(4, right ? e.clientX - 14 - tip.offsetWidth : e.clientX + 14) + "px";
  tip.style.top = Math.max(4, below ? e.clientY - 10 - tip.offsetHeight : e.clientY + 18) + "px";
  const box = shape.closest(".timelines");
  if (!box || !shape.dataset.key) return;
  marked = [...box.querySelectorAll("[data-key]")].filter(s => s.dataset.key === shape.dataset.key);
  for (const other of marked) other.classList.add("same");
};
document.addEventListener("pointermove", e => tell(e, e.buttons & 1));
document.addEventListener("pointerdown", e => { if (e.pointerType !== "mouse") tell(e, false); });
document.documentElement.addEventListener("pointerleave", e => {
  if (e.pointerType === "mouse") tip.hidden = true;
});
for (const box of document.querySelectorAll(".timelines")) {
  const W = 10000, span = +box.dataset.span, drawings = [...box.querySelectorAll(".plot svg")];
  let x = 0, w = W;
  const units = [["s", 1e9], ["ms", 1e6], ["µs", 1e3], ["ns", 1]];
  const draw = () => {
    w = Math.min(W, Math.max(w, W / 5000)); x = Math.min(W - w, Math.max(0, x));
    const ns = span * w / W, power = 10 ** Math.floor(Math.log10(ns / 8));
    const step = power * [1, 2, 5, 10, 20].find(m => ns / (m * power) <= 8);
    const [unit, factor] = units.find(u => ns >= 2 * u[1]) || units[3];
    const ticks = [];
    for (let t = Math.ceil(span * x / W / step) * step; t <= span * (x + w) / W; t += step)
      ticks.push([t * W / span, +(t / factor).toPrecision(9) + " " + unit]);
    for (const svg of drawings) {
      const height = svg.viewBox.baseVal.height, grid = svg.querySelector(".grid");
      svg.setAttribute("viewBox", `${x} 0 ${w} ${height}`);
      svg.classList.toggle("dense", svg.dataset.bar * svg.clientWidth / w < 4);
      grid.replaceChildren(...ticks.map(([place]) => {
        const line = grid.ownerDocument.createElementNS(svg.namespaceURI, "line");
        for (const [k, v] of [["x1", place], ["x2", place], ["y1", 0], ["y2", height]])
          line.setAttribute(k, v);
        return line;
      }));
      svg.nextElementSibling.replaceChildren(...ticks.map(([place, text]) => {
        const label = document.createElement("span");
        label.textContent = text;
        label.style.left = (place - x) * 100 / w + "%";
        if (place - x > .97 * w) label.style.transform = "translateX(-100%)";
        return label;
      }));
    }
  };
  const zoom = (factor, at = .5) => { x += w * at * (1 - factor); w *= factor; draw(); };
  for (const svg of drawings) {
    svg.addEventListener("wheel", e => {
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      zoom(e.deltaY > 0 ? 1.25 : .8, e.offsetX / svg.clientWidth);
    }, { passive: false });
    svg.addEventListener("pointermove", e => {
      if (e.buttons & 1) { x -= e.movementX * w / svg.clientWidth; draw(); }
    });
    svg.addEventListener("dblclick", () => { x = 0; w = W; draw(); });
  }
  const bar = document.createElement("li");
  bar.className = "zoom";
  bar.title = "Ctrl + wheel zooms, dragging moves, double click shows everything";
  for (const [text, label, action] of [["−", "zoom out", () => zoom(2)],
      ["+", "zoom in", () => zoom(.5)], ["all", "show everything", () => zoom(W)]]) {
    const button = document.createElement("button");
    button.textContent = text;
    button.ariaLabel = label;
    button.addEventListener("click", action);
    bar.append(button);
  }
  box.querySelector(".legend").append(bar);
}
"""
