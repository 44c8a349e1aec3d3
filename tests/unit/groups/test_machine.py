"""The owner's sequencer: one group on its owner, driven by hand.

``Bench`` gives the machine a configuration and reports, and notes its commands as short texts such as ``online app``.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.groups.machine import GroupMachine, Step
from clussvc.model.config import Group, Move, Resource
from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.monitoring import BringOnline, ResourceReported, TakeOffline
from clussvc.model.states import MoveCause, ResourceState, StateChangeReason
from clussvc.resources.machine import TERMINATE_AGAIN_MS

SQL, N1, N2 = GroupId("sql"), NodeId(1), NodeId(2)
EPOCH = 7


class Bench:
    """A machine, the group as it stands in the log, and what the machine asked for."""

    def __init__(self, *resources: Resource) -> None:
        self.now_ms = 1_000
        self.group = Group(id=SQL, name="SQL", owner=N1, epoch=EPOCH, released=False, persistent_state=True)
        self.resources = {str(each.id): each for each in resources}
        self.machine = GroupMachine(group=SQL, epoch=EPOCH)
        self.not_ready: set[str] = set()
        self.reasons: dict[str, StateChangeReason] = {}
        self.last = Step()

    def step(self) -> list[str]:
        """One step; the commands in order."""
        step = self.machine.step(
            self.group, list(self.resources.values()), self.now_ms, ready=lambda one: one not in self.not_ready
        )
        told: list[str] = []
        for command in step.commands:
            assert command.epoch == EPOCH
            verb = "terminate"
            if isinstance(command, BringOnline):
                verb = "online"
            elif isinstance(command, TakeOffline):
                verb = "offline"
            told.append(f"{verb} {command.resource}")
            self.reasons[command.resource] = command.reason
        self.last = step
        return told

    def report(self, name: str, state: ResourceState, *, terminated: bool = False, epoch: int = EPOCH) -> list[str]:
        """The monitor reports; then one step."""
        report = ResourceReported(
            resource=ResourceId(name), epoch=epoch, state=state, detail="it broke", terminated=terminated
        )
        self.machine.take_report(report, self.resources.get(name), self.now_ms)
        return self.step()

    def online(self, *names: str) -> list[str]:
        return [told for name in names for told in self.report(name, ResourceState.ONLINE)]

    def offline(self, *names: str) -> list[str]:
        return [told for name in names for told in self.report(name, ResourceState.OFFLINE)]

    def fails(self, name: str) -> list[str]:
        return self.report(name, ResourceState.FAILED)

    def change(self, name: str, **fields: object) -> None:
        self.resources[name] = replace(self.resources[name], **fields)  # type: ignore[arg-type]

    def move(self, cause: MoveCause = MoveCause.ADMIN) -> None:
        self.group = replace(self.group, move=Move(to=N2, cause=cause, because="a test"))

    def released(self) -> bool:
        """Whether the last step said that the group may be given away."""
        return self.last.released

    def state(self, name: str) -> ResourceState:
        return self.machine.locals[ResourceId(name)].state


def one(name: str, *needs: str, **fields: object) -> Resource:
    return replace(
        Resource(
            id=ResourceId(name),
            name=name,
            type="Generic Application",
            group=SQL,
            persistent_state=True,
            depends_on=tuple(ResourceId(each) for each in needs),
            restart_threshold=3,
        ),
        **fields,  # type: ignore[arg-type]
    )


def chain() -> Bench:
    """app needs name, name needs ip; all online."""
    bench = Bench(one("ip"), one("name", "ip"), one("app", "name"))
    assert ["online ip"] == bench.step()
    assert ["online name", "online app"] == bench.online("ip", "name")
    assert [] == bench.online("app")
    return bench


# --- order ----------------------------------------------------------------------------------------------------------


def test_providers_come_first() -> None:
    """Each resource waits until everything that it needs is online."""
    bench = Bench(one("app", "disk", "ip"), one("disk"), one("ip"))

    assert ["online disk", "online ip"] == bench.step()
    assert [] == bench.online("disk")
    assert ["online app"] == bench.online("ip")


def test_branches_proceed_in_parallel() -> None:
    """What does not depend on each other does not wait for each other."""
    bench = Bench(one("ip"), one("disk"), one("site", "ip"), one("sql", "disk"))

    assert ["online ip", "online disk"] == bench.step()
    assert ["online sql"] == bench.online("disk")
    assert ["online site"] == bench.online("ip")


def test_dependents_stop_first() -> None:
    """Offline walks in the opposite direction, gracefully."""
    bench = chain()
    for name in ("ip", "name", "app"):
        bench.change(name, persistent_state=False)

    assert ["offline app"] == bench.step()
    assert ["offline name"] == bench.offline("app")
    assert ["offline ip"] == bench.offline("name")
    assert [] == bench.offline("ip")


def test_nothing_is_said_twice() -> None:
    """A step that finds nothing new commands nothing."""
    bench = Bench(one("ip"))

    assert ["online ip"] == bench.step()
    assert [] == bench.step()


def test_unwanted_resources_stay_offline() -> None:
    """A group may be partly online; what needs an unwanted provider stays offline too."""
    bench = Bench(one("ip", persistent_state=False), one("app", "ip"), one("other"))

    assert ["online other"] == bench.step()


def test_a_monitor_that_is_not_ready_is_waited_for() -> None:
    """Commands wait; others proceed."""
    bench = Bench(one("ip"), one("disk"))
    bench.not_ready = {"ip"}

    assert ["online disk"] == bench.step()
    bench.not_ready = set()
    assert ["online ip"] == bench.step()


def test_a_wish_to_go_offline_overtakes_coming_online() -> None:
    """What is still coming online is terminated, not awaited."""
    bench = Bench(one("ip"))
    bench.step()
    bench.change("ip", persistent_state=False)

    assert ["terminate ip"] == bench.step()
    assert [] == bench.online("ip")
    assert [] == bench.offline("ip")


def test_a_wish_to_come_online_waits_for_the_end_of_offline() -> None:
    """A resource that is going offline is not interrupted."""
    bench = Bench(one("ip"))
    bench.step()
    bench.online("ip")
    bench.change("ip", persistent_state=False)
    assert ["offline ip"] == bench.step()
    bench.change("ip", persistent_state=True)

    assert [] == bench.step()
    assert ["online ip"] == bench.offline("ip")


def test_reports_of_an_older_epoch_are_ignored() -> None:
    """They are about a former ownership."""
    bench = Bench(one("ip"))
    bench.step()

    assert [] == bench.report("ip", ResourceState.ONLINE, epoch=EPOCH - 1)
    assert ResourceState.ONLINE_PENDING is bench.state("ip")


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failed_resource_is_terminated_and_restarted() -> None:
    """Only when the remains are gone."""
    bench = Bench(one("ip"))
    bench.step()
    bench.online("ip")

    assert ["terminate ip"] == bench.fails("ip")
    assert ["online ip"] == bench.offline("ip")


def test_failure_of_a_provider_takes_all_its_dependents_down_first() -> None:
    """Also those that depend on it through others; then everything comes back in order."""
    bench = chain()

    assert ["terminate app"] == bench.fails("ip")
    assert ["terminate name"] == bench.offline("app")
    assert ["terminate ip"] == bench.offline("name")
    assert ["online ip"] == bench.offline("ip")
    assert ["online name"] == bench.online("ip")
    assert ["online app"] == bench.online("name")


def test_a_provider_that_is_gone_already_waits_for_its_dependents() -> None:
    """Its monitor died: dependents elsewhere are stopped before it starts again."""
    bench = chain()
    bench.machine.monitor_died(bench.resources["ip"], "its monitor died", bench.now_ms)

    assert ["terminate app"] == bench.step()
    assert ["terminate name"] == bench.offline("app")
    assert ["online ip"] == bench.offline("name")


def test_failure_in_one_branch_leaves_the_other_alone() -> None:
    """Only what depends on the failed resource goes down."""
    bench = Bench(one("ip"), one("disk"), one("site", "ip"))
    bench.step()
    bench.online("ip", "disk", "site")

    assert ["terminate site"] == bench.fails("ip")
    assert ResourceState.ONLINE is bench.state("disk")


def test_a_failure_while_coming_online_counts() -> None:
    """And the restarts are limited."""
    bench = Bench(one("ip", restart_threshold=1))
    bench.step()

    assert ["terminate ip"] == bench.fails("ip")
    assert ["online ip"] == bench.offline("ip")
    assert ["terminate ip"] == bench.fails("ip")
    assert [] == bench.offline("ip")
    assert ResourceState.FAILED is bench.state("ip")
    assert [ResourceId("ip")] == [wish.resource for wish in bench.last.wishes]


def test_restarts_of_long_ago_are_forgotten() -> None:
    """The period slides."""
    bench = Bench(one("ip", restart_threshold=1, restart_period_ms=60_000))
    bench.step()
    for _ in range(3):
        bench.online("ip")
        bench.fails("ip")
        assert ["online ip"] == bench.offline("ip")
        bench.now_ms += 60_000


def test_without_failover_it_stays_failed_and_its_dependents_are_taken_down() -> None:
    """RestartAction 1 leaves the group alone."""
    bench = Bench(one("ip", restart_threshold=0, restart_action=1), one("app", "ip"), one("other"))
    bench.step()
    bench.online("ip", "other", "app")

    assert ["terminate app"] == bench.fails("ip")
    assert ["terminate ip"] == bench.offline("app")
    assert [] == bench.offline("ip")
    assert [] == bench.last.wishes
    assert ResourceState.ONLINE is bench.state("other")


def test_a_failed_resource_comes_back_by_command() -> None:
    """An administrator's online is a fresh start with all restarts."""
    bench = Bench(one("ip", restart_threshold=0))
    bench.step()
    bench.fails("ip")
    bench.offline("ip")
    bench.change("ip", online_ticket=1)

    assert ["online ip"] == bench.step()
    assert [] == bench.last.wishes


def test_a_failed_resource_can_be_taken_offline() -> None:
    """Its failure is settled then: no failover, no retry; who waits for the group to be offline is not kept waiting."""
    bench = Bench(one("ip", restart_threshold=0, retry_period_on_failure_ms=60_000))
    bench.step()
    assert ["terminate ip"] == bench.fails("ip")
    bench.change("ip", persistent_state=False)

    assert [] == bench.step()
    assert ResourceState.FAILED is bench.state("ip"), "not yet terminated"
    assert [] == bench.offline("ip")
    assert ResourceState.OFFLINE is bench.state("ip")
    assert [] == bench.last.wishes
    assert bench.last.next_ms is None


def test_a_resource_that_stayed_failed_can_be_taken_offline() -> None:
    """Also long after it was terminated."""
    bench = Bench(one("ip", restart_threshold=0, restart_action=1))
    bench.step()
    bench.fails("ip")
    bench.offline("ip")
    assert ResourceState.FAILED is bench.state("ip")
    bench.change("ip", persistent_state=False)

    assert [] == bench.step()
    assert ResourceState.OFFLINE is bench.state("ip")


def test_a_failed_resource_is_tried_again_after_the_retry_period() -> None:
    """The machine says when; nothing happens before."""
    bench = Bench(one("ip", restart_threshold=0, restart_action=1, retry_period_on_failure_ms=60_000))
    bench.step()
    bench.online("ip")
    bench.fails("ip")
    assert [] == bench.offline("ip")
    assert bench.now_ms + 60_000 == bench.last.next_ms

    bench.now_ms += 59_999
    assert [] == bench.step()
    bench.now_ms += 1
    assert ["online ip"] == bench.step()
    assert bench.last.next_ms is None


def test_made_to_fail_by_an_administrator() -> None:
    """The command counts as a failure of an online resource, once."""
    bench = Bench(one("ip"))
    bench.step()
    bench.online("ip")
    bench.change("ip", fail_ticket=1)

    assert ["terminate ip"] == bench.step()
    assert ["online ip"] == bench.offline("ip")
    assert [] == bench.online("ip")


def test_tickets_given_before_this_ownership_are_old() -> None:
    """A machine that begins takes the numbers as they are."""
    bench = Bench(one("ip", fail_ticket=4, online_ticket=9))
    bench.step()

    assert [] == bench.online("ip")


# --- leaving --------------------------------------------------------------------------------------------------------


def test_a_move_stops_everything_and_releases() -> None:
    """In order, and not before the last resource is stopped."""
    bench = chain()
    bench.move()

    assert ["offline app"] == bench.step()
    assert ["offline name"] == bench.offline("app")
    assert not bench.released()
    assert ["offline ip"] == bench.offline("name")
    assert [] == bench.offline("ip")
    assert bench.released()
    assert StateChangeReason.MOVE is bench.reasons["app"]


def test_a_released_machine_never_starts_anything() -> None:
    """Even if the move vanished from the configuration."""
    bench = Bench(one("ip"))
    bench.move()
    assert [] == bench.step()
    assert bench.released()
    bench.group = replace(bench.group, move=None)

    assert [] == bench.step()
    assert bench.released()


def test_a_failed_resource_does_not_hold_up_a_move() -> None:
    """It is terminated; once that is done, FAILED counts as stopped."""
    bench = Bench(one("ip", restart_threshold=0))
    bench.step()
    bench.online("ip")
    bench.move(MoveCause.RESOURCE_FAILURE)

    assert ["offline ip"] == bench.step()
    bench.report("ip", ResourceState.FAILED)
    assert not bench.released()
    bench.report("ip", ResourceState.FAILED, terminated=True)
    assert bench.released()
    assert StateChangeReason.FAILOVER is bench.reasons["ip"]


def test_nothing_is_started_on_what_a_dead_monitor_ran() -> None:
    """Whether it still runs is not known before its next monitor has cleaned up, and then it counts as failed. What
    stands on it already is left alone until then."""
    bench = Bench(one("ip"), one("disk", "ip"), one("app", "disk"), one("old", "ip"))
    bench.step()
    bench.online("ip")
    bench.online("old")
    bench.not_ready = {"ip"}
    assert bench.online("disk") == []

    bench.not_ready = set()
    assert bench.step() == ["online app"]


def test_an_unready_monitor_holds_up_the_release_of_what_runs() -> None:
    """Nobody may say that nothing runs while something does."""
    bench = Bench(one("ip"))
    bench.step()
    bench.online("ip")
    bench.not_ready = {"ip"}
    bench.move()

    assert [] == bench.step()
    assert not bench.released()


def test_an_empty_group_is_released_at_once() -> None:
    """There is nothing to stop."""
    bench = Bench()
    bench.move()

    assert [] == bench.step()
    assert bench.released()


def test_a_halted_group_goes_offline_and_stays() -> None:
    """It is not released: it keeps its owner."""
    bench = Bench(one("ip"))
    bench.step()
    bench.online("ip")
    bench.group = replace(bench.group, halted=True)

    assert ["offline ip"] == bench.step()
    assert [] == bench.offline("ip")
    assert not bench.released()


def test_a_resource_deleted_while_it_runs_is_terminated() -> None:
    """And forgotten when it is gone; until then the group is not released."""
    bench = Bench(one("ip"))
    bench.step()
    bench.online("ip")
    del bench.resources["ip"]
    bench.move()

    assert ["terminate ip"] == bench.step()
    assert not bench.released()
    assert [] == bench.report("ip", ResourceState.OFFLINE)
    assert bench.released()
    assert {} == bench.machine.locals


# --- a law ----------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d", "e")


@settings(max_examples=150, deadline=None)
@given(
    needs=st.lists(st.sets(st.integers(0, 4)), min_size=5, max_size=5),
    events=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["answer", "fail", "gone", "want", "unwant"]))),
)
def test_online_only_above_online(needs: list[set[int]], events: list[tuple[int, str]]) -> None:
    """Whatever happens: nothing is started above a provider that is not online, nor stopped below one that runs; and
    when the failures end, everything comes online."""
    resources = [
        one(name, *(NAMES[n] for n in needs[place] if n < place), restart_threshold=1_000)
        for place, name in enumerate(NAMES)
    ]
    bench = Bench(*resources)
    settle(bench)
    for place, event in events:
        happen(bench, NAMES[place], event)
    for name in NAMES:
        bench.change(name, persistent_state=True)
    settle(bench)


def settle(bench: Bench) -> None:
    """The monitor answers everything it is told, and all resources are wanted: they come online."""
    for _ in range(50):
        checked(bench)
        for name in NAMES:
            happen(bench, name, "answer")
        if all(bench.state(name) is ResourceState.ONLINE for name in NAMES):
            return
    raise AssertionError({name: bench.state(name) for name in NAMES})


def happen(bench: Bench, name: str, event: str) -> None:
    """One event in the life of a resource; the monitor answers what it was told."""
    local = bench.machine.locals.get(ResourceId(name))
    if event in ("want", "unwant"):
        bench.change(name, persistent_state=event == "want")
    elif local is not None and event == "answer" and (local.terminating or local.state is not ResourceState.ONLINE):
        if local.terminating or local.state is ResourceState.OFFLINE_PENDING:
            answer(bench, name, ResourceState.OFFLINE)
        elif local.state is ResourceState.ONLINE_PENDING:
            answer(bench, name, ResourceState.ONLINE)
    elif local is not None and event in ("fail", "gone"):
        running = local.state in (ResourceState.ONLINE, ResourceState.ONLINE_PENDING)
        if running and not local.terminating:
            answer(bench, name, ResourceState.FAILED, terminated=event == "gone")
    checked(bench)


def answer(bench: Bench, name: str, state: ResourceState, *, terminated: bool = False) -> None:
    report = ResourceReported(resource=ResourceId(name), epoch=EPOCH, state=state, terminated=terminated)
    bench.machine.take_report(report, bench.resources[name], bench.now_ms)


def checked(bench: Bench) -> None:
    """One step, with the law about its commands."""
    for told in bench.step():
        verb, name = told.split()
        if verb == "online":
            assert all(bench.state(each) is ResourceState.ONLINE for each in bench.resources[name].depends_on)
        for each in bench.resources.values():
            if name in each.depends_on:
                assert bench.machine.locals[each.id].stopped, (told, each.name)


# --- what cannot be terminated --------------------------------------------------------------------------------------


def test_what_could_not_be_terminated_is_terminated_again_and_holds_its_group() -> None:
    bench = chain()
    bench.move()
    assert ["offline app"] == bench.step()
    assert [] == bench.fails("app")

    assert bench.state("app") is ResourceState.FAILED
    assert not bench.released()
    bench.now_ms += TERMINATE_AGAIN_MS - 1
    assert [] == bench.step()
    assert bench.last.next_ms == bench.now_ms + 1
    bench.now_ms += 1
    assert ["terminate app"] == bench.step()
    assert ["offline name"] == bench.offline("app")


def test_a_failed_resource_that_cannot_be_terminated_starts_again_once_it_is_gone() -> None:
    bench = chain()
    assert ["terminate app"] == bench.fails("app")
    assert [] == bench.fails("app")
    assert [] == bench.fails("app")
    bench.now_ms += TERMINATE_AGAIN_MS
    assert ["terminate app"] == bench.step()
    assert ["online app"] == bench.offline("app")


def test_what_was_deleted_is_terminated_again_as_well() -> None:
    bench = chain()
    del bench.resources["app"]
    assert ["terminate app"] == bench.step()
    assert [] == bench.fails("app")
    bench.now_ms += TERMINATE_AGAIN_MS
    assert ["terminate app"] == bench.step()
