"""What stands in a profile file."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from dynpartition.cluster import Blocks, DeviceKind
from dynpartition.formats.fields import Amount, Name, Positive, Record, Share, Sigma, Speed
from dynpartition.profile import HostMode

AmountPerDevice = Amount | dict[Name, Amount]
"""One number, or one by device."""

AmountPerCell = Amount | dict[Name, Amount | dict[Name, Amount]]
"""One number, one by device, or one by cell and device."""

Table = Annotated[tuple[tuple[Positive, Positive], ...], msgspec.Meta(min_length=1)]
"""Measured (bytes, ns) points of a link."""


Sigmas = Annotated[tuple[tuple[Positive, Sigma], ...], msgspec.Meta(min_length=1)]
"""(duration_ns, σ) points."""


class AffineFields(Record):
    """A latency and a bandwidth."""

    latency_ns: Amount
    bandwidth_bytes_per_s: Positive


class DeviceFields(Record):
    """One device; no `memory_bytes`: unlimited; no `resident`: all cells that fit.

    `link`: what its links are slowed to on hardware.
    """

    name: Name
    kind: DeviceKind
    memory_bytes: Positive | None = None
    speed: Speed = 1.0
    resident: tuple[Name, ...] | None = None
    link: AffineFields | None = None


class LinkFields(Record):
    """One link: either latency and bandwidth, or a table of (bytes, ns)."""

    src: Name
    dst: Name
    latency_ns: Amount | None = None
    bandwidth_bytes_per_s: Positive | None = None
    table: Table | None = None
    resources: tuple[Name, ...] = ()
    blocks: Blocks | None = None


class CurveFields(Record):
    """Durations of launches of growing batches."""

    batch: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    duration_ns: tuple[Amount, ...]


class DispatchFields(Record):
    """What the host and the executor add."""

    host_mode: HostMode = "none"
    h: AmountPerCell = 0
    h_copy: Amount = 0
    lock: Share = 0.0
    handoff_ns: Amount = 0
    queue_depth: Positive | None = None
    bookkeeping_ns: AmountPerDevice = 0
    copy_in: dict[Name, AffineFields] = msgspec.field(default_factory=dict)
    copy_out: dict[Name, AffineFields] = msgspec.field(default_factory=dict)
    first_use_ns: dict[Name, dict[Name, Amount]] = msgspec.field(default_factory=dict)
    sync_ns: Amount = 0
    decision_ns: Amount = 0


class NoiseFields(Record):
    """How much launches vary: σ, or σ by duration, and stalls."""

    sigma: Sigma | Sigmas = 0.0
    stall_probability: Share = 0.0
    stall_ns: Amount = 0


class ProfileFields(Record, kw_only=True, tag_field="format", tag="dynpartition-profile"):
    """A profile file."""

    version: Literal[1]
    devices: Annotated[tuple[DeviceFields, ...], msgspec.Meta(min_length=1)]
    host: Name | None = None
    links: tuple[LinkFields, ...]
    cells: dict[Name, dict[Name, CurveFields]]
    dispatch: DispatchFields = msgspec.field(default_factory=DispatchFields)
    noise: NoiseFields | None = None
    uncertainty: Sigma = 0.0
    provenance: dict[str, object] = msgspec.field(default_factory=dict)
