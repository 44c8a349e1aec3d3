"""The objects Network and NetInterface."""

from __future__ import annotations

from dataclasses import replace

from clussvc.admin import networks
from clussvc.admin.dto import Plain
from clussvc.admin.roles import Role
from clussvc.admin.servant import Servant, change, query
from clussvc.admin.servants.lines import common_lines, private_changes_of, private_lines
from clussvc.admin.values import Assigned, common_changes
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.model.config import PING_TARGETS, Network


class NetworkServant(Servant):
    """The networks that connect the nodes with each other and with clients."""

    @query()
    def status(self, name: str | None = None) -> list[Plain]:
        """One network or all of them, in the order of the nodes' addresses."""
        config = self.config
        return [networks.network_of(config, network) for network in self.networks(name)]

    @query()
    def interfaces(self, name: str | None = None) -> list[Plain]:
        """The interfaces on one network or on all."""
        config = self.config
        return [line for network in self.networks(name) for line in networks.interfaces_of(config, network)]

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one network or of all."""
        return common_lines(self.networks(name))

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one network or of all."""
        return [line for network in self.networks(name) for line in private_lines(network.private, network.name)]

    @query()
    def priorities(self) -> list[str]:
        """The internal networks, the one that carries the log first."""
        config = self.config
        found = {network.position: network.name for network in config.all_networks}
        return [found[position] for position in config.internal_positions]

    @change(Role.ADMINISTRATOR)
    def set_priorities(self, names: list[str]) -> Update:
        """Order the internal networks, all of which must be named."""
        return updates.SetNetworkPriorities(networks=tuple(self.network(name).id for name in names))

    @change(Role.ADMINISTRATOR)
    def rename(self, name: str, new_name: str) -> Update:
        """Give the network another name."""
        return updates.Rename(kind="network", id=self.network(name).id, name=new_name)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties, the role among them."""
        network = self.network(name)
        return updates.SetNetworkProperties(network=network.id, common=common_changes(network, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties, such as the ping targets."""
        network = self.network(name)
        listed = [
            replace(one, name=PING_TARGETS, format="multistring")
            if one.name.casefold() == PING_TARGETS.casefold()
            else one
            for one in assigned
        ]
        return updates.SetNetworkProperties(network=network.id, private=private_changes_of(network, listed, reset))

    def networks(self, name: str | None) -> list[Network]:
        """The network of that name, or all of them."""
        return [self.network(name)] if name else list(self.config.all_networks)


class NetInterfaceServant(Servant):
    """The addresses of the nodes on the networks."""

    @query()
    def status(self, node: str | None = None, network: str | None = None) -> list[Plain]:
        """The interfaces of one node, on one network, or all, by nodes."""
        return self.found(node, network)

    @query()
    def properties(self, node: str | None = None, network: str | None = None) -> list[Plain]:
        """The properties of these interfaces, none of which can be set."""
        return [line for one in self.found(node, network) for line in networks.interface_properties(one)]

    def found(self, node: str | None, network: str | None) -> list[Plain]:
        """The interfaces that are meant."""
        config = self.config
        nodes = [self.node(node)] if node else list(config.nodes.values())
        wanted = [self.network(network)] if network else config.all_networks
        lines = [line for each in wanted for line in networks.interfaces_of(config, each)]
        return [line for one in nodes for line in lines if line["node"] == one.name]
