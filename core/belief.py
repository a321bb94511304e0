"""A backend of which schedulers are told something else than it says of itself.

Where a profile is being corrected, or is wrong on purpose, the machine stays the same and only what
may be known of it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynpartition.contract import Backend, CompletePlan, RelayedSession, Session, Workload
from dynpartition.errors import ProfileError
from dynpartition.profile import Profile
from dynpartition.types import IntArray


class Believing(Backend):
    """Runs everything on `machine`, of which schedulers know `profile`.

    Closing it closes nothing: the machine stays its owner's. Raises ProfileError for a profile of
    other devices or links: plans for them would not be plans for the machine.
    """

    def __init__(self, machine: Backend, profile: Profile) -> None:
        for what, own, other in zip(
            ("devices", "links", "host"), _parts(machine.profile), _parts(profile), strict=True
        ):
            if own != other:
                raise ProfileError(
                    f"the profile's {what}, {other}, are not the machine's, {own}; give a profile"
                    " that differs in numbers alone"
                )
        self.machine = machine
        self._profile = profile

    @property
    def profile(self) -> Profile:
        """What schedulers know."""
        return self._profile

    def open(self, workload: Workload) -> Session:
        """Start a run on the machine."""
        return self.relayed(self.machine.open(workload))

    def relayed(self, session: Session) -> Session:
        """Return a session of the machine as schedulers are to see it."""
        return _BelievingSession(session, self._profile)

    def makespans_ns(self, plans: Sequence[CompletePlan]) -> IntArray:
        """Run every plan on the machine."""
        return self.machine.makespans_ns(plans)


def _parts(profile: Profile) -> tuple[object, object, object]:
    cluster = profile.cluster
    return cluster.names, [(link.src, link.dst) for link in cluster.links], cluster.host


class _BelievingSession(RelayedSession):
    def __init__(self, session: Session, profile: Profile) -> None:
        super().__init__(session)
        self._profile = profile

    @property
    def profile_now(self) -> Profile | None:
        now = self._session.profile_now
        return None if now is None else _as_believed(now, self._profile)


def _as_believed(now: Profile, profile: Profile) -> Profile:
    """Return what is left of the machine after losses, with the numbers of `profile`."""
    links = {(link.src, link.dst): link for link in profile.cluster.links}
    left = tuple(links[link.src, link.dst] for link in now.cluster.links)
    cells = {
        cell: {
            device: profile.cells.get(cell, {}).get(device, curve) for device, curve in row.items()
        }
        for cell, row in now.cells.items()
    }
    return replace(
        now, cluster=replace(now.cluster, links=left), cells=cells, dispatch=profile.dispatch
    )
