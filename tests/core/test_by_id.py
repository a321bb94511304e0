"""Values by identity: bounded, and ids are never taken for those of others."""

from dynpartition.by_id import ById


class Thing:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None


def test_equal_objects_are_apart_and_nothing_is_compared():
    known, one, other = ById(), Thing(), Thing()
    known.put(one, 1)
    assert (known.get(one), known.get(other)) == (1, None)


def test_keeps_its_objects_so_that_no_id_is_used_again():
    known = ById()
    for number in range(100):  # what nobody holds is freed at once, and the next takes its place
        known.put(Thing(), number)
    assert len(known) == 100


def test_forgets_what_was_asked_for_longest_ago():
    known, things = ById(2), [Thing() for _ in range(3)]
    for number, thing in enumerate(things[:2]):
        known.put(thing, number)
    known.get(things[0])
    known.put(things[2], 2)
    assert [known.get(thing) for thing in things] == [0, None, 2]


def test_makes_a_value_once():
    known, thing, made = ById(), Thing(), []
    for _ in range(2):
        assert known.get_or_make(thing, lambda each: made.append(each) or "value") == "value"
    assert len(made) == 1
