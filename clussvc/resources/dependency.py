"""The dependency graph of the resources of a group: who needs whom, in which order they start, and no circles.

A resource *depends on* its providers: they come online before it and go offline after it (MSCS: resource
dependencies). The graph is the mapping from a resource to its providers; resources without an entry have none. All
functions take linear time in resources and dependencies, and their order follows the order of the mapping, so every
node computes the same. They recurse nowhere, so a chain may be as long as the cluster allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from clussvc.model.config import Resource
from clussvc.model.ids import ResourceId

Graph = Mapping[ResourceId, Sequence[ResourceId]]
"""From each resource to its providers."""


def graph_of(resources: Iterable[Resource]) -> dict[ResourceId, tuple[ResourceId, ...]]:
    """The graph of these resources, in their order."""
    return {resource.id: resource.depends_on for resource in resources}


def reversed_graph(graph: Graph) -> dict[ResourceId, list[ResourceId]]:
    """From each resource to its direct dependents."""
    found: dict[ResourceId, list[ResourceId]] = {resource: [] for resource in graph}
    for resource, providers in graph.items():
        for provider in dict.fromkeys(providers):
            found.setdefault(provider, []).append(resource)
    return found


def providers_closure(graph: Graph, start: Iterable[ResourceId]) -> tuple[ResourceId, ...]:
    """The resources of ``start`` and all that they need, directly or not; nearest first."""
    return _closure(graph, start)


def dependents_closure(graph: Graph, start: Iterable[ResourceId]) -> tuple[ResourceId, ...]:
    """The resources of ``start`` and all that need them, directly or not; nearest first."""
    return _closure(reversed_graph(graph), start)


def connected(graph: Graph, start: ResourceId) -> tuple[ResourceId, ...]:
    """Everything that is tied to a resource by dependencies in either direction, itself first."""
    neighbours = reversed_graph(graph)
    for resource, providers in graph.items():
        neighbours[resource].extend(providers)
    return _closure(neighbours, (start,))


def _closure(edges: Graph, start: Iterable[ResourceId]) -> tuple[ResourceId, ...]:
    found = dict.fromkeys(start)
    waiting = deque(found)
    while waiting:
        for neighbour in edges.get(waiting.popleft(), ()):
            if neighbour not in found:
                found[neighbour] = None
                waiting.append(neighbour)
    return tuple(found)


def find_cycle(graph: Graph, resource: ResourceId, provider: ResourceId) -> tuple[ResourceId, ...] | None:
    """The circle that a new dependency of ``resource`` on ``provider`` would close; None if it closes none.

    A shortest one, beginning and ending with ``resource``: each depends on the next.
    """
    came_from: dict[ResourceId, ResourceId | None] = {provider: None}
    waiting = deque((provider,))
    while waiting:
        here = waiting.popleft()
        if here == resource:
            break
        for needed in graph.get(here, ()):
            if needed not in came_from:
                came_from[needed] = here
                waiting.append(needed)
    if resource not in came_from:
        return None
    path = [resource]
    step = came_from[resource]
    while step is not None:
        path.append(step)
        step = came_from[step]
    path.append(resource)
    return tuple(reversed(path))


def online_waves(graph: Graph) -> tuple[tuple[ResourceId, ...], ...]:
    """The resources in waves: each wave needs only earlier ones, so its members may come online side by side.

    Read backwards it is the order of going offline. Providers outside of the graph are taken as given. The graph must
    be free of circles, which the log guarantees; a circle is a broken invariant.
    """
    lacking = {
        resource: sum(1 for provider in dict.fromkeys(providers) if provider in graph)
        for resource, providers in graph.items()
    }
    dependents = reversed_graph(graph)
    position = {resource: number for number, resource in enumerate(graph)}
    waves: list[tuple[ResourceId, ...]] = []
    wave = [resource for resource, count in lacking.items() if count == 0]
    while wave:
        waves.append(tuple(wave))
        following = []
        for resource in wave:
            for dependent in dependents[resource]:
                lacking[dependent] -= 1
                if lacking[dependent] == 0:
                    following.append(dependent)
        wave = sorted(following, key=position.__getitem__)
    assert sum(map(len, waves)) == len(graph), "the dependencies form a circle"
    return tuple(waves)
