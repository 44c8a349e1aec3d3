"""The object Fence: the devices that cut nodes off."""

from __future__ import annotations

from typing import Any

from clussvc.admin import fencing
from clussvc.admin.dto import Plain
from clussvc.admin.roles import Role
from clussvc.admin.servant import Derived, Refused, Servant, change, query
from clussvc.admin.servants.lines import common_lines, refuse_reports
from clussvc.admin.values import Assigned, common_changes, private_changes
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.model import reports
from clussvc.model.config import FenceDevice
from clussvc.model.errors import ClusterError
from clussvc.model.ids import FenceDeviceId


class FenceServant(Servant):
    """The fence devices: what can switch nodes off."""

    @query()
    def status(self, name: str | None = None) -> list[Plain]:
        """One device or all of them, in the order in which they are tried."""
        config = self.config
        devices = [self.device(name)] if name else config.fence_devices.values()
        ordered = sorted(devices, key=lambda one: (one.node, one.order))
        return [fencing.device_of(config, device) for device in ordered]

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one device or of all."""
        return common_lines([self.device(name)] if name else self.config.fence_devices.values())

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """The parameters of the agents; secrets are not shown."""
        devices = [self.device(name)] if name else self.config.fence_devices.values()
        return [line for device in devices for line in fencing.parameter_lines(device)]

    @change(Role.ADMINISTRATOR)
    def create(
        self,
        name: str,
        node: str,
        agent: str,
        common: list[Assigned] | None = None,
        private: list[Assigned] | None = None,
    ) -> Any:
        """A device for a node. The agent must be on this node, and its metadata must know the parameters."""
        owner = self.node(node).id
        blank = FenceDevice(id=FenceDeviceId(""), name=name, node=owner, agent=agent)
        parameters = refuse_reports(private_changes(f"fence device {name!r}", {}, None, private or [], []))
        bad = fencing.check_parameters(self.access, name, agent, parameters, complete=True)
        if bad is not None:
            raise Refused(bad)
        return Derived(
            lambda identifier: updates.CreateFenceDevice(
                device=FenceDeviceId(identifier),
                name=name,
                node=owner,
                agent=agent,
                common=common_changes(blank, common or [], []),
                private=parameters,
            )
        )

    @change(Role.ADMINISTRATOR)
    def delete(self, name: str) -> Update:
        """The device is not used any more."""
        return updates.DeleteFenceDevice(device=self.device(name).id)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties."""
        device = self.device(name)
        return updates.SetFenceDeviceProperties(device=device.id, common=common_changes(device, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change parameters of the agent, whose metadata must know them."""
        device = self.device(name)
        owner = f"fence device {device.name!r}"
        parameters = refuse_reports(private_changes(owner, device.private, None, assigned, reset))
        given = {known: value for known, value in parameters.items() if value is not None}
        bad = fencing.check_parameters(self.access, device.name, device.agent, given, complete=False)
        if bad is not None:
            raise Refused(bad)
        return updates.SetFenceDeviceProperties(device=device.id, private=parameters)

    @query(Role.OPERATOR)
    def test(self, name: str) -> Plain:
        """Whether the device answers to this node; nothing is switched."""
        device = self.device(name)
        problem = ""
        try:
            self.access.use_fence_device(device, "monitor", min(device.timeout_ms, fencing.HAND_TIMEOUT_MS))
        except ClusterError as error:
            problem = error.message
        return {**fencing.device_of(self.config, device), "from": self.node(None).name, "problem": problem}

    def device(self, name: str) -> FenceDevice:
        """The device of that name."""
        found = self.config.fence_device_named(name)
        if found is None:
            raise Refused(reports.fence_device_not_found(name))
        return found
