"""Profile files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import msgspec

from dynpartition.cluster import AffineCost, Cluster, Device, Link, TableCost, TransferCost
from dynpartition.errors import FileFormatError
from dynpartition.formats.files import in_file, read_bytes, write_bytes
from dynpartition.formats.layout import render
from dynpartition.formats.profile_fields import (
    AffineFields,
    AmountPerCell,
    AmountPerDevice,
    CurveFields,
    DeviceFields,
    DispatchFields,
    LinkFields,
    NoiseFields,
    ProfileFields,
)
from dynpartition.formats.strict import decode
from dynpartition.profile import Curve, Dispatch, Noise, PerCellAndDevice, PerDevice, Profile


def read_profile(path: Path) -> Profile:
    """Return the profile in a file; FileFormatError or ProfileError names file and place."""
    with in_file(path):
        return parse_profile(read_bytes(path))


def write_profile(path: Path, profile: Profile) -> None:
    """Write `profile`; reading the file gives an equal profile."""
    with in_file(path):
        data = profile_bytes(profile)
        parse_profile(data)
    write_bytes(path, data)


def profile_bytes(profile: Profile) -> bytes:
    """Return the text of the file that `write_profile` writes."""
    return render(_fields(profile))


def parse_profile(data: bytes) -> Profile:
    """Return the profile in JSON text; errors name the place, not the file."""
    fields = decode(data, ProfileFields)
    cluster = Cluster(
        tuple(_device(device, f"$.devices[{n}]") for n, device in enumerate(fields.devices)),
        tuple(_link(link, f"$.links[{number}]") for number, link in enumerate(fields.links)),
        fields.host or "",
    )
    cells = {cell: _curves(cell, curves) for cell, curves in fields.cells.items()}
    dispatch = _dispatch(fields.dispatch, cluster)
    noise = None if fields.noise is None else _noise(fields.noise)
    return Profile(cluster, cells, dispatch, fields.provenance, noise, fields.uncertainty)


def _device(fields: DeviceFields, place: str) -> Device:
    resident = fields.resident
    if resident is not None and len(set(resident)) < len(resident):
        raise FileFormatError(f"a cell is listed twice – at `{place}.resident`")
    link = fields.link
    slowed = None if link is None else AffineCost(link.latency_ns, link.bandwidth_bytes_per_s)
    return Device(fields.name, fields.kind, fields.memory_bytes, fields.speed, resident, slowed)


def _noise(fields: NoiseFields) -> Noise:
    sigma = fields.sigma
    points = ((1, sigma),) if isinstance(sigma, float) else sigma
    _check_ascending([duration for duration, _ in points], "$.noise.sigma", "durations")
    return Noise(sigma=points, stall_probability=fields.stall_probability, stall_ns=fields.stall_ns)


def _link(fields: LinkFields, place: str) -> Link:
    if len(set(fields.resources)) < len(fields.resources):
        raise FileFormatError(f"a resource is listed twice – at `{place}.resources`")
    cost = _transfer_cost(fields, place)
    return Link(fields.src, fields.dst, cost, fields.resources, fields.blocks)


def _transfer_cost(fields: LinkFields, place: str) -> TransferCost:
    latency, bandwidth, table = fields.latency_ns, fields.bandwidth_bytes_per_s, fields.table
    if table is not None and latency is None and bandwidth is None:
        _check_ascending([size for size, _ in table], f"{place}.table", "bytes")
        return TableCost(table)
    if table is None and latency is not None and bandwidth is not None:
        return AffineCost(latency, bandwidth)
    raise FileFormatError(
        f"link {fields.src}->{fields.dst} needs either latency_ns and bandwidth_bytes_per_s, or"
        f" table – at `{place}`"
    )


def _check_ascending(values: Iterable[int], place: str, what: str) -> None:
    for before, after in pairwise(values):
        if after <= before:
            raise FileFormatError(
                f"{what} must grow strictly, but {after} follows {before} – at `{place}`"
            )


def _curves(cell: str, fields: Mapping[str, CurveFields]) -> dict[str, Curve]:
    return {d: _curve(curve, f'$.cells["{cell}"]["{d}"]') for d, curve in fields.items()}


def _curve(fields: CurveFields, place: str) -> Curve:
    _check_ascending(fields.batch, f"{place}.batch", "batch sizes")
    if len(fields.batch) != len(fields.duration_ns):
        raise FileFormatError(
            f"{len(fields.batch)} batch sizes but {len(fields.duration_ns)} durations; give one"
            f" duration per batch size – at `{place}`"
        )
    return Curve(fields.batch, fields.duration_ns)


def _dispatch(fields: DispatchFields, cluster: Cluster) -> Dispatch:
    _check_devices(fields, cluster)
    plain = msgspec.structs.asdict(fields)
    plain["copy_in"] = _affine_costs(fields.copy_in)
    plain["copy_out"] = _affine_costs(fields.copy_out)
    return Dispatch(**plain)


def _affine_costs(fields: Mapping[str, AffineFields]) -> dict[str, AffineCost]:
    return {d: AffineCost(c.latency_ns, c.bandwidth_bytes_per_s) for d, c in fields.items()}


def _check_devices(fields: DispatchFields, cluster: Cluster) -> None:
    tables = {"copy_in": fields.copy_in, "copy_out": fields.copy_out}
    for name, table in tables.items():
        _check_names(table, cluster, f"$.dispatch.{name}")
    if not isinstance(fields.bookkeeping_ns, int):
        _check_names(fields.bookkeeping_ns, cluster, "$.dispatch.bookkeeping_ns")
    for cell, row in fields.first_use_ns.items():
        _check_names(row, cluster, f'$.dispatch.first_use_ns["{cell}"]')
    if not isinstance(fields.h, int):
        _check_host_times(fields.h, cluster)


def _check_host_times(
    h: Mapping[str, int | dict[str, int]], cluster: Cluster, place: str = "$.dispatch.h"
) -> None:
    by_cell = {cell: row for cell, row in h.items() if not isinstance(row, int)}
    if not by_cell:
        _check_names(h, cluster, place)
    elif len(by_cell) < len(h):
        raise FileFormatError(
            f"numbers by device and by cell are mixed; use one of the two – at `{place}`"
        )
    for cell, row in by_cell.items():
        _check_names(row, cluster, f'{place}["{cell}"]')


def _check_names(names: Iterable[str], cluster: Cluster, place: str) -> None:
    for name in names:
        cluster.index(name, place=place)


def _fields(profile: Profile) -> ProfileFields:
    cluster = profile.cluster
    return ProfileFields(
        version=1,
        devices=tuple(_device_fields(device) for device in cluster.devices),
        host=cluster.host,
        links=tuple(_link_fields(link) for link in cluster.links),
        cells={cell: _curve_fields(curves) for cell, curves in profile.cells.items()},
        dispatch=_dispatch_fields(profile.dispatch),
        noise=None if profile.noise is None else _noise_fields(profile.noise),
        uncertainty=profile.uncertainty,
        provenance=dict(profile.provenance),
    )


def _noise_fields(noise: Noise) -> NoiseFields:
    alone = len(noise.sigma) == 1 and noise.sigma[0][0] == 1
    return NoiseFields(
        sigma=noise.sigma[0][1] if alone else noise.sigma,
        stall_probability=noise.stall_probability,
        stall_ns=noise.stall_ns,
    )


def _device_fields(device: Device) -> DeviceFields:
    link = device.link
    return DeviceFields(
        name=device.name,
        kind=device.kind,
        memory_bytes=device.memory_bytes,
        speed=device.speed,
        resident=device.resident,
        link=None if link is None else AffineFields(link.latency_ns, link.bandwidth_bytes_per_s),
    )


def _link_fields(link: Link) -> LinkFields:
    affine = link.cost if isinstance(link.cost, AffineCost) else None
    return LinkFields(
        src=link.src,
        dst=link.dst,
        latency_ns=affine.latency_ns if affine else None,
        bandwidth_bytes_per_s=affine.bandwidth_bytes_per_s if affine else None,
        table=link.cost.points if isinstance(link.cost, TableCost) else None,
        resources=link.resources,
        blocks=link.blocks,
    )


def _curve_fields(curves: Mapping[str, Curve]) -> dict[str, CurveFields]:
    return {d: CurveFields(batch=c.batch, duration_ns=c.duration_ns) for d, c in curves.items()}


def _dispatch_fields(dispatch: Dispatch) -> DispatchFields:
    return DispatchFields(
        host_mode=dispatch.host_mode,
        h=_plain_host_times(dispatch.h),
        h_copy=dispatch.h_copy,
        lock=dispatch.lock,
        handoff_ns=dispatch.handoff_ns,
        queue_depth=dispatch.queue_depth,
        bookkeeping_ns=_plain(dispatch.bookkeeping_ns),
        copy_in=_affine_fields(dispatch.copy_in),
        copy_out=_affine_fields(dispatch.copy_out),
        first_use_ns={cell: dict(row) for cell, row in dispatch.first_use_ns.items()},
        sync_ns=dispatch.sync_ns,
        decision_ns=dispatch.decision_ns,
    )


def _plain(numbers: PerDevice) -> AmountPerDevice:
    return numbers if isinstance(numbers, int) else dict(numbers)


def _plain_host_times(h: PerCellAndDevice) -> AmountPerCell:
    if isinstance(h, int):
        return h
    return {name: row if isinstance(row, int) else dict(row) for name, row in h.items()}


def _affine_fields(costs: Mapping[str, AffineCost]) -> dict[str, AffineFields]:
    return {
        d: AffineFields(latency_ns=c.latency_ns, bandwidth_bytes_per_s=c.bandwidth_bytes_per_s)
        for d, c in costs.items()
    }
