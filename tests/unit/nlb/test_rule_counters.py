"""Which counter counts for which rule: nothing is mixed, nothing is lost, whatever tables come one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clussvc.nlb.rule_counters import COUNTERS, Packets, RuleCounters

NOTHING = (Packets(),) * COUNTERS


class Filter:
    """Counts by the numbers that its table has, as the kernel does."""

    def __init__(self) -> None:
        self.counters = RuleCounters()
        self.counted = list(NOTHING)

    def load(self, titles: list[str]) -> None:
        """A table with these rules."""
        self.counters = self.counters.with_rules(titles, self.counted)

    def decide(self, title: str, accepted: int, dropped: int) -> None:
        """Packets of a rule of the table."""
        number = self.counters.counter_of(title)
        had = self.counted[number]
        self.counted[number] = Packets(accepted=had.accepted + accepted, dropped=had.dropped + dropped)

    def packets(self) -> dict[str, Packets]:
        """By rule."""
        return dict(self.counters.packets(self.counted))


def test_a_rule_keeps_its_counter_when_others_come_and_go() -> None:
    """Before it, behind it, and when it is away for a while, as when the host is stopped."""
    subject = Filter()
    subject.load(["80", "443", "Default"])
    subject.decide("443", 3, 2)
    for titles in (["25", "80", "443", "Default"], ["443", "25", "Default"], ["Default"], ["Default", "443"]):
        subject.load(titles)
    subject.decide("443", 1, 1)

    assert subject.packets() == {"443": Packets(accepted=4, dropped=3), "Default": Packets()}


def test_whoever_was_away_for_longest_gives_its_counter_up() -> None:
    """And who gets it begins at nothing."""
    subject = Filter()
    for number in range(COUNTERS):
        subject.load([f"{number}", "Default"])
        subject.decide(f"{number}", number + 1, 7)
    subject.load(["1", "Default"])
    assert subject.packets()["1"] == Packets(accepted=2, dropped=7)
    subject.load(["new", "Default"])
    assert subject.packets()["new"] == Packets()
    for number in (0, 2):
        subject.load([f"{number}", "Default"])
        assert subject.packets()[f"{number}"] == Packets()
    subject.load(["100", "Default"])
    assert subject.packets()["100"] == Packets(accepted=101, dropped=7)


titles = st.lists(st.sampled_from([f"{number}" for number in range(200)]), unique=True, max_size=64)


@given(st.lists(titles, max_size=12), st.data())
def test_no_rule_has_what_another_counted(tables: list[list[str]], data: st.DataObject) -> None:
    """Every rule has what it counted since it last came new, and no two share a counter. A new one never gets the
    counter of a rule of the table before, which may still be counting."""
    subject = Filter()
    expected: dict[str, Packets] = {}
    for rules in tables:
        before = {title: subject.counters.counter_of(title) for title in subject.counters.loaded}
        remembered = {title for title, _ in subject.counters.lanes}
        subject.load(rules)
        numbers = {title: subject.counters.counter_of(title) for title in rules}
        assert len(set(numbers.values())) == len(rules)
        for title, number in numbers.items():
            assert number not in before.values() or before.get(title) == number
            if title not in remembered:
                expected[title] = Packets()
        for title in rules:
            accepted, dropped = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
            subject.decide(title, accepted, dropped)
            had = expected[title]
            expected[title] = Packets(accepted=had.accepted + accepted, dropped=had.dropped + dropped)
        assert subject.packets() == {title: expected[title] for title in rules}
