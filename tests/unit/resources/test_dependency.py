"""The dependency graph: closures, circles and waves."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.model.ids import ResourceId
from clussvc.resources.dependency import (
    connected,
    dependents_closure,
    find_cycle,
    online_waves,
    providers_closure,
)

GraphDict = dict[ResourceId, tuple[ResourceId, ...]]


def graph(**needs: str) -> GraphDict:
    return {ResourceId(name): tuple(ResourceId(each) for each in text.split()) for name, text in needs.items()}


WEB = graph(disk="", ip="", name="ip", share="disk name", app="share", other="")
R = ResourceId


def test_closures_come_nearest_first() -> None:
    """Providers of a resource, and dependents of one, itself included."""
    assert ("app", "share", "disk", "name", "ip") == providers_closure(WEB, [R("app")])
    assert ("ip", "name", "share", "app") == dependents_closure(WEB, [R("ip")])
    assert ("other",) == providers_closure(WEB, [R("other")])


def test_connected_goes_both_ways() -> None:
    """All that is tied together, and nothing else."""
    assert {"disk", "ip", "name", "share", "app"} == set(connected(WEB, R("disk")))
    assert ("other",) == connected(WEB, R("other"))


def test_waves_start_what_can_start() -> None:
    """Independent branches share a wave."""
    assert (("disk", "ip", "other"), ("name",), ("share",), ("app",)) == online_waves(WEB)
    assert () == online_waves({})


def test_circles_are_shown_as_paths() -> None:
    """Each resource on the path depends on the next one."""
    assert ("ip", "app", "share", "name", "ip") == find_cycle(WEB, R("ip"), R("app"))
    assert ("ip", "ip") == find_cycle(WEB, R("ip"), R("ip"))
    assert find_cycle(WEB, R("app"), R("ip")) is None


def test_long_chains_do_not_exhaust_the_stack() -> None:
    """As many levels as a cluster may have resources."""
    names = [R(f"r{number}") for number in range(8_000)]
    chain: GraphDict = {name: tuple(names[at - 1 : at]) for at, name in enumerate(names)}
    assert 8_000 == len(online_waves(chain)) == len(providers_closure(chain, names[-1:]))
    circle = find_cycle(chain, names[0], names[-1])
    assert circle is not None
    assert 8_001 == len(circle)


@st.composite
def any_graphs(draw: st.DrawFn) -> GraphDict:
    size = draw(st.integers(1, 8))
    names = [R(f"r{number}") for number in range(size)]
    return {name: tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True))) for name in names}


def reachable(edges: GraphDict, start: ResourceId) -> set[ResourceId]:
    """A plain twin: repeat until nothing is added."""
    found = {start}
    while True:
        more = found | {each for one in found for each in edges[one]}
        if more == found:
            return found
        found = more


@given(edges=any_graphs(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_laws(edges: GraphDict, data: st.DataObject) -> None:
    """Closures agree with the plain twin, a circle is a real path, and waves respect every dependency."""
    one, two = data.draw(st.sampled_from(list(edges))), data.draw(st.sampled_from(list(edges)))
    assert reachable(edges, one) == set(providers_closure(edges, [one]))
    assert (two in providers_closure(edges, [one])) == (one in dependents_closure(edges, [two]))
    path = find_cycle(edges, one, two)
    assert (path is not None) == (one in reachable(edges, two))
    if path is not None:
        assert (one, two) == path[:2] or one == two
        assert one == path[-1]
        assert all(after in edges[before] for before, after in pairwise(path[1:]))
    acyclic: GraphDict = {name: tuple(each for each in needs if each < name) for name, needs in edges.items()}
    waves = online_waves(acyclic)
    level = {name: number for number, wave in enumerate(waves) for name in wave}
    assert set(acyclic) == set(level)
    assert all(level[each] < level[name] for name, needs in acyclic.items() for each in needs)
