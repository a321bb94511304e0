"""The clock on its own: completions first, then the phases, until nothing is left."""

from __future__ import annotations

from dynpartition.sim.clock import Completion, InstantClock


class Diary:
    """Writes down when what completes, and every round of the one phase."""

    def __init__(self) -> None:
        self.clock = InstantClock()
        self.lines: list[str] = []
        self.follow_up: dict[str, int] = {}
        """Completed → after how long it is followed by its echo."""

    def complete(self, completion: Completion) -> None:
        self.lines.append(f"{self.clock.now_ns} {completion.value}")
        if completion.value in self.follow_up:
            delay_ns = self.follow_up.pop(completion.value)
            self.clock.after(delay_ns, self.complete, f"echo of {completion.value}")

    def phase(self) -> None:
        self.lines.append(f"{self.clock.now_ns} phase")


def test_everything_of_an_instant_completes_before_the_phases() -> None:
    """What a completion begins with zero length still belongs to its round."""
    diary = Diary()
    for name, at_ns in (("a", 5), ("b", 3), ("c", 5)):
        diary.clock.after(at_ns, diary.complete, name)
    diary.follow_up["a"] = 0
    diary.clock.run([diary.phase])
    assert diary.lines == ["0 phase", "3 b", "3 phase", "5 a", "5 c", "5 echo of a", "5 phase"]


def test_what_a_phase_begins_with_zero_length_opens_another_round() -> None:
    diary = Diary()
    begun: list[str] = []

    def begin_once() -> None:
        if not begun:
            begun.append("d")
            diary.clock.after(0, diary.complete, "d")

    diary.clock.run([diary.phase, begin_once])
    assert diary.lines == ["0 phase", "0 d", "0 phase"]


def test_up_to_a_time_what_ends_then_ends_and_nothing_begins() -> None:
    diary = Diary()
    for name, at_ns in (("a", 4), ("b", 7), ("c", 8)):
        diary.clock.after(at_ns, diary.complete, name)
    diary.follow_up["b"] = 0
    diary.clock.run([diary.phase], until_ns=7)
    assert diary.lines == ["0 phase", "4 a", "4 phase", "7 b", "7 echo of b"]


def test_up_to_time_0_nothing_begins() -> None:
    diary = Diary()
    diary.clock.after(1, diary.complete, "a")
    diary.clock.run([diary.phase], until_ns=0)
    assert diary.lines == []
