"""The cluster as a picture: devices on an ellipse, links between them, as inline SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from dynpartition.cli.markup import Markup, duration, join, size, tag
from dynpartition.cli.timeline import colour
from dynpartition.cluster import AffineCost, Cluster, Device, Link, TransferCost

WIDTH, BOX_WIDTH, BOX_HEIGHT = 760, 150, 66
MARGIN = 12
WIDE_FROM = 11
"""More devices than this need a wider picture, which the page shows smaller."""
LABELS_MAX = 8
"""Of more links only the lines are drawn; the table below has the numbers."""
LABEL_AT = 0.4
"""Part of the way at which a label stands where links cross, in the middle of the picture."""
APART = 5
"""Half the distance of the two directions of a pair that differ."""
LABEL_HALF_WIDTH, LABEL_HALF_HEIGHT = 80, 14

Point = tuple[float, float]


def cluster_picture(cluster: Cluster, notes: Mapping[str, str]) -> Markup:
    """Return the picture; `notes` adds a remark to a device's name.

    A pair of links that cost the same is one line. Lines of one colour share a part of the machine:
    one transfer waits for the other. The thicker, the faster.
    """
    places = _places(cluster)
    height = round(max(y for _, y in places.values()) + BOX_HEIGHT / 2 + MARGIN)
    colours = _colours(cluster)
    groups = _groups(cluster.links)
    lines = [_line(group, places, colours) for group in groups]
    few = len(groups) <= LABELS_MAX
    labels = [_label(group, places) for group in groups] if few else []
    boxes = [_box(device, places[device.name], cluster, notes) for device in cluster.devices]
    drawing = tag(
        "svg",
        *lines,
        *boxes,
        *labels,
        viewBox=f"0 0 {_width(cluster)} {height}",
        class_="cluster",
        role="img",
        aria_label="devices and links",
    )
    return join(drawing, _legend(colours))


def link_costs(cost: TransferCost) -> tuple[str, str]:
    """Return latency and bandwidth; of a table, its smallest point and its largest's rate."""
    if isinstance(cost, AffineCost):
        return duration(cost.latency_ns), f"{size(cost.bandwidth_bytes_per_s)}/s"
    (_, first_ns), (last_bytes, last_ns) = cost.points[0], cost.points[-1]
    return duration(first_ns), f"{size(last_bytes * 1e9 / max(1, last_ns))}/s"


def _places(cluster: Cluster) -> dict[str, Point]:
    """Return where each device's box has its centre: the host on top, or left of one other."""
    names = [cluster.host, *(name for name in cluster.names if name != cluster.host)]
    count = len(names)
    if count <= 2:
        left, right = BOX_WIDTH / 2 + 90, WIDTH - BOX_WIDTH / 2 - 90
        xs = [WIDTH / 2] if count == 1 else [left, right]
        return {name: (x, BOX_HEIGHT / 2 + MARGIN) for name, x in zip(names, xs, strict=True)}
    width = _width(cluster)
    wide = (width - BOX_WIDTH) / 2 - MARGIN
    high = max(115.0, 32.0 * count)
    angles = [-2 * math.pi * at / count - math.pi / 2 for at in range(count)]  # to the left first
    centre_y = BOX_HEIGHT / 2 + MARGIN + high
    return {
        name: (round(width / 2 + wide * math.cos(a), 1), round(centre_y + high * math.sin(a), 1))
        for name, a in zip(names, angles, strict=True)
    }


def _width(cluster: Cluster) -> int:
    return WIDTH * max(WIDE_FROM, len(cluster.devices)) // WIDE_FROM


def _colours(cluster: Cluster) -> dict[str, str]:
    """Return a colour for each resource that several links hold."""
    holders = Counter(name for link in cluster.links for name in set(link.held))
    shared = [name for name, links in holders.items() if links > 1]
    return {name: colour(rank) for rank, name in enumerate(shared)}


def _groups(links: Sequence[Link]) -> list[tuple[Link, ...]]:
    """Return each link with the other direction, where that costs and shares the same."""
    by_ends = {(link.src, link.dst): link for link in links}
    groups: list[tuple[Link, ...]] = []
    for link in links:
        back = by_ends.get((link.dst, link.src))
        if back is None or not _alike(link, back):
            groups.append((link,))
        elif link.src < link.dst:
            groups.append((link, back))
    return groups


def _alike(link: Link, back: Link) -> bool:
    shares = set(link.resources) == set(back.resources)
    return link.cost == back.cost and shares and link.blocks == back.blocks


def _ends(
    group: Sequence[Link], places: Mapping[str, Point], aside: float = APART
) -> tuple[Point, Point]:
    """Return both ends of a line; of two directions each lies that far aside."""
    (x1, y1), (x2, y2) = places[group[0].src], places[group[0].dst]
    nx, ny = _normal(group, places) if len(group) == 1 else (0.0, 0.0)
    dx, dy = nx * aside, ny * aside
    return (round(x1 + dx, 1), round(y1 + dy, 1)), (round(x2 + dx, 1), round(y2 + dy, 1))


def _normal(group: Sequence[Link], places: Mapping[str, Point]) -> Point:
    """Return the direction across a line, of length 1; the other way for the way back."""
    (x1, y1), (x2, y2) = places[group[0].src], places[group[0].dst]
    length = math.hypot(x2 - x1, y2 - y1)
    return -(y2 - y1) / length, (x2 - x1) / length


def _line(group: Sequence[Link], places: Mapping[str, Point], colours: Mapping[str, str]) -> Markup:
    (x1, y1), (x2, y2) = _ends(group, places)
    shared = [colours[name] for name in group[0].held if name in colours]
    return tag(
        "line",
        tag("title", "\n".join(map(_describe, group))),
        class_="link",
        style=f"stroke:{shared[0]}" if shared else None,
        stroke_width=_thickness(group[0].cost),
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
    )


def _describe(link: Link) -> str:
    latency, bandwidth = link_costs(link.cost)
    blocked = f", blocks {' and '.join(link.blocked_devices)}" if link.blocks else ""
    held = f", holds {', '.join(link.resources)}" if link.resources else ""
    return f"{link.src} → {link.dst}: {latency}, {bandwidth}{held}{blocked}"


def _thickness(cost: TransferCost) -> float:
    """Return a width between 1 and 6 that grows by one with each tenfold bandwidth from 1 MB/s."""
    if isinstance(cost, AffineCost):
        rate = float(cost.bandwidth_bytes_per_s)
    else:
        last_bytes, last_ns = cost.points[-1]
        rate = last_bytes * 1e9 / max(1, last_ns)
    return round(min(6.0, max(1.0, math.log10(max(1.0, rate)) - 6)), 1)


def _label(group: Sequence[Link], places: Mapping[str, Point]) -> Markup:
    """Return what a line says: on a line of both directions, beside one of a single direction."""
    nx, ny = _normal(group, places)
    clear = APART + abs(nx) * LABEL_HALF_WIDTH + abs(ny) * LABEL_HALF_HEIGHT
    (x1, y1), (x2, y2) = _ends(group, places, clear)
    at = 0.5 if len(places) <= 3 else LABEL_AT
    latency, bandwidth = link_costs(group[0].cost)
    arrow = "" if len(group) == 2 else f"to {group[0].dst}: "
    return tag(
        "text",
        f"{arrow}{bandwidth}, {latency}",
        x=round(x1 + at * (x2 - x1), 1),
        y=round(y1 + at * (y2 - y1) + 4, 1),
        text_anchor="middle",
    )


def _box(device: Device, place: Point, cluster: Cluster, notes: Mapping[str, str]) -> Markup:
    x, y = place
    memory = "no memory limit" if device.memory_bytes is None else size(device.memory_bytes)
    remark = ", ".join(filter(None, [notes.get(device.name, ""), _role(device, cluster)]))
    texts = [device.name, f"{device.kind}, {memory}", *([remark] if remark else [])]
    top = y - 8.5 * (len(texts) - 1) + 4
    return tag(
        "g",
        tag(
            "rect",
            x=round(x - BOX_WIDTH / 2, 1),
            y=round(y - BOX_HEIGHT / 2, 1),
            width=BOX_WIDTH,
            height=BOX_HEIGHT,
            rx=8,
        ),
        *(
            tag("text", text, x=x, y=round(top + 17 * row, 1), text_anchor="middle")
            for row, text in enumerate(texts)
        ),
        class_=f"device {device.kind}",
    )


def _role(device: Device, cluster: Cluster) -> str:
    return "host" if device.name == cluster.host else ""


def _legend(colours: Mapping[str, str]) -> Markup | None:
    if not colours:
        return None
    entries = [
        tag("li", tag("i", "", style=f"background:{colour}"), f"share {name}")
        for name, colour in colours.items()
    ]
    return tag("ul", *entries, class_="legend")
