"""What a task of another tool's graph takes on each device, by the arithmetic that it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dynpartition.calibration.operators import OperatorModel, Work
from dynpartition.calibration.sheet_costs import Assumptions, Operation, launch_ns
from dynpartition.calibration.sheets import CPUS, GPUS, Cpu, Gpu
from dynpartition.errors import ProfileError
from dynpartition.profile import Profile

Pricer = Callable[[Work], int]
"""Work of one task → ns."""

_CPU_NOTE = "one core of "


def pricers(profile: Profile) -> dict[str, Pricer]:
    """Return device → how long a launch of one task takes there, in ns.

    By the operator models of a profile that `calibrate` wrote, or by the datasheets that a shipped
    profile was made from. Raises ProfileError for other profiles.
    """
    story = profile.provenance
    models, sheets = story.get("operators"), story.get("devices")
    names = profile.cluster.names
    if isinstance(models, dict) and all(name in models for name in names):
        return {name: _by_model(OperatorModel.from_plain(models[name])) for name in names}
    if isinstance(sheets, dict) and all(_sheet(sheets.get(name)) for name in names):
        assumed = _assumptions(story.get("assumed"))
        return {name: _by_sheet(_sheet(sheets[name]), assumed) for name in names}
    raise ProfileError(
        "the profile cannot price operators that were never measured; give one that `calibrate`"
        " wrote, a shipped datasheet-… profile, or durations of your own"
    )


def _by_model(model: OperatorModel) -> Pricer:
    return lambda work: max(1, round(model.ns(work, 1)))


def _by_sheet(device: Cpu | Gpu | None, assumed: Assumptions) -> Pricer:
    assert device is not None

    def price(work: Work) -> int:
        # All bytes and products at once: the sum over operators is never less than that.
        first = Operation(work.flops, work.bytes_of(1))
        rest = [Operation(0, 0)] * (work.ops - 1)
        return launch_ns([first, *rest], device, assumed)

    return price


def _sheet(name: object) -> Cpu | Gpu | None:
    if not isinstance(name, str):
        return None
    return GPUS.get(name) or CPUS.get(name.removeprefix(_CPU_NOTE))


def _assumptions(plain: object) -> Assumptions:
    try:
        return Assumptions(**plain) if isinstance(plain, Mapping) else Assumptions()
    except TypeError:
        raise ProfileError(
            f"the profile's provenance assumes what is not known ({plain}); write it again with"
            " this release"
        ) from None
