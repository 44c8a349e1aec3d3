"""Administrators: they give one command after another, on whatever node answers, and never wait for fair weather.

A *script* is a generator of updates; what it gets back is the refusal of each (None: done). An answer that does not
come, or comes as "unknown", is asked for again with the same request, perhaps on another node; so every script also
tries the rule that a request takes effect once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from random import Random

from clussvc.global_update.update import (
    AddDependency,
    AddPossibleOwner,
    CreateFenceDevice,
    CreateGroup,
    DeleteGroup,
    DeleteResource,
    EvictNode,
    FailResource,
    MoveGroup,
    MoveResource,
    OfflineGroup,
    OnlineGroup,
    OnlineResource,
    PauseNode,
    RemovePossibleOwner,
    Rename,
    ResumeNode,
    SetClusterProperties,
    SetGroupProperties,
    SetPreferredOwners,
    SetQuorum,
    SetResourceProperties,
    StopNode,
    Update,
)
from clussvc.model.ids import FenceDeviceId, GroupId, NodeId, RequestId, ResourceId
from clussvc.model.reports import Report, outcome_unknown
from clussvc.model.states import MoveCause
from tests.simulation.world import World, new_resource

ANSWER_MS = 11_000
"""How long somebody waits for an answer; the service itself gives up earlier."""

ATTEMPTS_MAX = 4

Script = Generator[Update, Report | None, None]


class Administrator:
    """Runs scripts in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.under_way = 0

    def run(self, script: Script, *, then: Callable[[], None] = lambda: None) -> None:
        """Begin a script; its commands follow as the answers come."""
        self.under_way += 1
        self._next(script, None, then)

    def _next(self, script: Script, answer: Report | None, then: Callable[[], None]) -> None:
        try:
            update = script.send(answer) if answer is not None else next(script)
        except StopIteration:
            self.under_way -= 1
            then()
            return
        self._ask(script, update, self._world.new_request(), 1, then)

    def _ask(self, script: Script, update: Update, request: RequestId, attempt: int, then: Callable[[], None]) -> None:
        world = self._world
        answered: list[bool] = []

        def on_reply(refusal: Report | None) -> None:
            if answered:
                return
            answered.append(True)
            if refusal is not None and refusal.code in ("outcome-unknown", "no-quorum") and attempt < ATTEMPTS_MAX:
                again = request if refusal.code == "outcome-unknown" else world.new_request()
                world.scheduler.later(500, lambda: self._ask(script, update, again, attempt + 1, then))
                return
            self._next(script, refusal, then)

        awake = [machine.name for machine in world.nodes.values() if machine.awake]
        if awake:
            world.command(update, on=world.random.choice(awake), request=request, then=on_reply)
        world.scheduler.later(ANSWER_MS, lambda: on_reply(outcome_unknown("nobody answered")))


def create_group(world: World, name: str, size: int, *, separate_monitors: bool = False) -> Script:
    """A group whose resources form a chain with a branch, brought online; every other one in a monitor of its own if
    that is wanted."""
    group = GroupId(f"g-{name}")
    if (yield CreateGroup(group=group, name=name)) is not None:
        return
    resources: list[ResourceId] = []
    for number in range(size):
        update = new_resource(name, f"r{number}", group, separate=separate_monitors and number % 2 == 1)
        if (yield update) is not None:
            continue
        if resources:
            yield AddDependency(resource=update.resource, provider=world.random.choice(resources))
        resources.append(update.resource)
    yield OnlineGroup(group=group)


def create_parallel_group(world: World, name: str, size: int, max_instances: int) -> Script:
    """A group that is parallel from its first resource on; its first owner has to let it go before."""
    group = GroupId(f"g-{name}")
    if (yield CreateGroup(group=group, name=name)) is not None:
        return
    yield SetGroupProperties(
        group=group, common={"GroupType": "parallel", "MaxInstances": max_instances}, instances=True
    )
    resources: list[ResourceId] = []
    for number in range(size):
        update = new_resource(name, f"r{number}", group)
        if (yield update) is not None:
            continue
        if resources:
            yield AddDependency(resource=update.resource, provider=world.random.choice(resources))
        resources.append(update.resource)
    yield OnlineGroup(group=group)


def change_instances(rng: Random, world: World, group: GroupId) -> Script:
    """Something that people do with a parallel group: more or fewer instances, other nodes, one node, and back."""
    instances = [each.id for each in world.config.instances_of(group)]
    resources = list(world.config.resources_of(group))
    what = rng.choice(["limit", "limit", "move", "move", "type", "owners", "one"])
    if what == "limit" or not instances or not resources:
        yield SetGroupProperties(group=group, common={"MaxInstances": rng.randint(0, 3)}, instances=True)
    elif what == "move":
        to = rng.choice([None, *world.config.nodes])
        yield MoveGroup(group=rng.choice(instances), to=to, cause=MoveCause.ADMIN, because="an administrator asked")
    elif what == "type":
        yield OfflineGroup(group=group)
        for wanted in ("failover", "parallel", "parallel"):
            yield SetGroupProperties(group=group, common={"GroupType": wanted}, instances=True)
        yield OnlineGroup(group=group)
    elif what == "owners":
        resource, node = rng.choice(resources), rng.choice(list(world.config.nodes))
        yield RemovePossibleOwner(resource=resource.id, node=node)
        yield AddPossibleOwner(resource=resource.id, node=node)
    else:
        one = rng.choice(instances)
        yield OfflineGroup(group=one)
        yield OnlineGroup(group=one)


def create_fence_device(name: str, node: NodeId) -> Script:
    """One more way to switch a node off."""
    yield CreateFenceDevice(device=FenceDeviceId(name), name=name, node=node, agent="fence_sim")


def require_fencing(required: int) -> Script:
    """Whether a silent node counts as down before it was fenced."""
    yield SetClusterProperties(common={"FencingRequired": required})


def change_profile(name: str) -> Script:
    """Another timing profile for the running cluster."""
    yield SetClusterProperties(common={"TimingProfile": name}, quicker=True)


def change_hold(hold_ms: int) -> Script:
    """For how long at a time the owner holds the quorum disk; -1: as the timing profile says."""
    yield SetQuorum(hold_ms=hold_ms)


def delete_group(world: World, group: GroupId) -> Script:
    """Offline first, as it must be; refused while it is not."""
    yield OfflineGroup(group=group)
    for resource in list(world.config.resources_of(group)):
        yield DeleteResource(resource=resource.id)
    yield DeleteGroup(group=group)


def change_group(world: World, group: GroupId, nodes: list[NodeId]) -> Script:
    """Properties, preferred owners, another resource, one less, a move of a resource."""
    rng = world.random
    yield SetPreferredOwners(group=group, nodes=tuple(rng.sample(nodes, rng.randint(0, len(nodes)))))
    yield SetGroupProperties(group=group, common={"AutoFailbackType": rng.randrange(2), "Description": "changed"})
    name = f"x{world.scheduler.number()}"
    added = new_resource(name, "extra", group)
    if (yield added) is None:
        yield OnlineResource(resource=added.resource)
        yield SetResourceProperties(resource=added.resource, common={"RestartAction": rng.randrange(3)})
        yield SetResourceProperties(resource=added.resource, private={"CommandLine": "other"})
        others = [other for other in world.config.groups if other not in (group, world.config.default_group)]
        if others and rng.random() < 0.5:
            yield MoveResource(resource=added.resource, group=rng.choice(others))
        elif rng.random() < 0.5:
            yield FailResource(resource=added.resource)
        else:
            yield DeleteResource(resource=added.resource)
    yield Rename(kind="group", id=group, name=f"renamed {world.scheduler.number()}")


def move_group(group: GroupId, to: NodeId | None) -> Script:
    """To a node, or to wherever the cluster likes."""
    yield MoveGroup(group=group, to=to, cause=MoveCause.ADMIN, because="an administrator asked for it")


def offline_and_online(group: GroupId) -> Script:
    """Both at once, so that the one catches up with the other."""
    yield OfflineGroup(group=group)
    yield OnlineGroup(group=group)


def online(groups: list[GroupId]) -> Script:
    """Bring everything online."""
    for group in groups:
        yield OnlineGroup(group=group)


def pause(node: NodeId) -> Script:
    """No more groups for this node."""
    yield PauseNode(node=node)


def resume(nodes: list[NodeId]) -> Script:
    """End of all pauses."""
    for node in nodes:
        yield ResumeNode(node=node)


def stop_node(node: NodeId) -> Script:
    """Ask a node to hand over and end."""
    yield StopNode(node=node)


def evict_node(node: NodeId) -> Script:
    """Refused while it is up."""
    yield EvictNode(node=node)
