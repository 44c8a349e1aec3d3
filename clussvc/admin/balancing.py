"""Load-balanced clusters, as administration sees and changes them: what is behind the command ``nlb``.

What is wanted (parameters, rules, hosts, commands) stands in the private properties of the resource and is changed by
updates of the log that depend on what was read, so that two administrators never undo each other's commands unseen.
What is the case is asked of this node's own host, the process that runs while the resource is online here; it knows the
others by their heartbeats.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

from clussvc.admin.dto import Plain
from clussvc.admin.roles import Role
from clussvc.admin.servant import Refused, Servant, change, query
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.model import reports
from clussvc.model.config import Resource
from clussvc.model.errors import ClusterError
from clussvc.model.ids import HostId
from clussvc.model.monitoring import PropertyValue
from clussvc.model.reports import Report
from clussvc.model.states import ResourceState
from clussvc.nlb.control import (
    HOST_COMMANDS,
    RULE_COMMANDS,
    ControlStatus,
    HostWish,
    Wishes,
    command_host,
    command_rules,
    wishes_texts,
)
from clussvc.nlb.instance import TYPE_NAME, Instance, digest, read_instance, with_profile
from clussvc.nlb.mac import OperationMode, igmp_group, mac_text
from clussvc.nlb.parameters import HostParameters, InterfaceAddress, RuleNumber, parse_host
from clussvc.nlb.port_rule import FilteringMode, PortRule, RuleScope, parse_rule, parse_scope, sort_rules
from clussvc.resources.type_info import complete_private

NOT_USED: Final = "(not used)"
"""Parameters of the original that have no meaning here."""
NO_ADDRESS: Final = str(IPv4Address(0))


class NlbServant(Servant):
    """The load-balanced clusters."""

    # --- what is wanted ---------------------------------------------------------------------------------------------

    @query()
    def clusters(self, name: str | None = None) -> list[Plain]:
        """One cluster or all of them: parameters, rules, hosts."""
        found = [self.balanced(name)] if name else self.all_balanced()
        return [self._cluster(resource, instance) for resource, instance in found]

    @query()
    def judge(self, name: str, command: str, host: str, ports: str) -> list[Plain]:
        """What a control command would lead to on each host that is meant, by the codes of the original."""
        _, instance = self.balanced(name)
        return [
            {"node": one.node, "id": int(one.host), "status": status.value}
            for one, _, status in self._commanded(name, instance, command, host, ports)
        ]

    @change(Role.OPERATOR)
    def control(self, name: str, command: str, host: str, ports: str) -> Update:
        """Do it on the hosts that allow it; see :mod:`clussvc.nlb.control`. ``host`` empty: on all of them."""
        resource, instance = self.balanced(name)
        wishes = {one.node: instance.wishes_for(one.node) for one in instance.hosts}
        for one, after, status in self._commanded(name, instance, command, host, ports):
            if status.good:
                wishes[one.node] = after
        return self._set(resource, "HostStates", wishes_texts(wishes))

    @change(Role.ADMINISTRATOR)
    def edit_rules(self, name: str, what: str, rule: str, bound_to: str = "", probe: str = "") -> Update:
        """``add`` a rule, ``remove`` it, or ``set`` it in place of that with the same address, ports and protocol.

        ``bound_to`` names the resource that the rule follows, ``probe`` its probe, if the text does not.
        """
        resource, instance = self.balanced(name)
        known = {one.title.casefold(): one for one in instance.cluster.rules}
        if what == "remove":
            title = " ".join(rule.split()[:3]).casefold()
            if title not in known:
                found = ", ".join(f"'{one.title}'" for one in instance.cluster.rules)
                raise Refused(_not_found(f"There is no port rule {rule!r}; the rules are: {found}."))
            del known[title]
        else:
            made = self._rule(rule, bound_to, probe)
            if what == "add" and made.title.casefold() in known:
                raise Refused(reports.bad_argument(f"There is a port rule '{made.title}' already; set it instead."))
            if what == "set" and made.title.casefold() not in known:
                raise Refused(_not_found(f"There is no port rule '{made.title}'; add it instead."))
            if what not in ("add", "set"):
                raise Refused(reports.bad_argument(f"{what!r} is none of add, remove and set."))
            known[made.title.casefold()] = made
        return self._set(resource, "PortRules", tuple(one.text() for one in sort_rules(known.values())))

    def _rule(self, text: str, bound_to: str, probe: str) -> PortRule:
        made = parse_rule(f"{text} probe={shlex.quote(probe)}" if probe else text)
        if isinstance(made, str):
            raise Refused(reports.bad_argument(made))
        made = replace(made, resource=bound_to or made.resource)
        if made.resource:
            made = replace(made, resource=self.resource(made.resource).name)
        return made

    @change(Role.ADMINISTRATOR)
    def set_weight(self, name: str, node: str, ports: str, value: str) -> Update:
        """The load weight of a host in the rules that are meant, or its handling priority in those of a single host."""
        resource, instance = self.balanced(name)
        one = self._one_host(instance, node)
        scope = _scope(ports)
        meant = [rule for rule in instance.cluster.rules if scope.means(rule)]
        if not meant:
            raise Refused(_not_found(f"No port rule contains {ports}."))
        single = {rule.mode is FilteringMode.SINGLE for rule in meant}
        if len(single) != 1:
            raise Refused(reports.bad_argument(f"{ports} means rules of different modes; name one of them."))
        kind = "handling" if single == {True} else "weight"
        former = one.handling if kind == "handling" else one.weights
        others = tuple(each for each in former if each.scope != scope)
        if value.casefold() in ("equal", "default"):
            changed = others
        elif value.isdecimal() and len(value) <= 3:
            changed = (*others, RuleNumber(scope=scope, number=int(value)))
        else:
            raise Refused(reports.bad_argument(f"{value!r} is neither a number nor 'equal'."))
        one = replace(one, handling=changed) if kind == "handling" else replace(one, weights=changed)
        return self._set_hosts(resource, instance, [*(each for each in instance.hosts if each.node != one.node), one])

    @change(Role.ADMINISTRATOR)
    def add_host(self, name: str, node: str, priority: str = "", dip: str = "") -> Any:
        """Let one more node take part; without ``priority`` it gets the lowest number that is free."""
        resource, instance = self.balanced(name)
        member = self.node(node)
        if instance.host(member.name) is not None:
            raise Refused(reports.bad_argument(f"{member.name} is a host of {instance.address} already."))
        used = {one.host for one in instance.hosts}
        number = priority or str(next(each for each in range(1, 99) if HostId(each) not in used))
        made = parse_host(f"{member.name} priority={number}" + (f" dip={dip}" if dip else ""))
        if isinstance(made, str):
            raise Refused(reports.bad_argument(made))
        parameters = self._set_hosts(resource, instance, [*instance.hosts, made])
        if resource.possible_owners is None or member.id in resource.possible_owners:
            return parameters
        return updates.Batch(updates=(parameters, updates.AddPossibleOwner(resource=resource.id, node=member.id)))

    @change(Role.ADMINISTRATOR)
    def remove_host(self, name: str, node: str) -> Any:
        """The node takes part no more; its resource goes offline there."""
        resource, instance = self.balanced(name)
        one = self._one_host(instance, node)
        if len(instance.hosts) == 1:
            raise Refused(
                reports.bad_argument(f"{one.node} is the last host of {instance.address}; delete the resource.")
            )
        left = [each for each in instance.hosts if each.node != one.node]
        parameters = self._set_hosts(resource, instance, left)
        member = self.config.node_named(one.node)
        possible = resource.possible_owners
        if member is None or (possible is not None and member.id not in possible):
            return parameters
        return updates.Batch(updates=(parameters, updates.RemovePossibleOwner(resource=resource.id, node=member.id)))

    def _set_hosts(self, resource: Resource, instance: Instance, hosts: list[HostParameters]) -> Update:
        ordered = sorted(hosts, key=lambda one: (one.host, one.node))
        return self._set(resource, "HostParameters", tuple(one.text() for one in ordered))

    def _set(self, resource: Resource, name: str, value: tuple[str, ...]) -> Update:
        """Set a property if it still is what was read."""
        return updates.SetResourceProperties(
            resource=resource.id, private={name: value}, expected_private={name: resource.private.get(name)}
        )

    # --- what is the case -------------------------------------------------------------------------------------------

    @query()
    def status(self, name: str) -> Plain:
        """Every host of the cluster, as the host on this node knows it."""
        resource, instance = self.balanced(name)
        return self._status(resource, instance)

    @query()
    def port_status(self, name: str, ports: str) -> Plain:
        """The rules that are meant, each with its state on every host; packets are counted on this node alone."""
        resource, instance = self.balanced(name)
        scope = _scope(ports)
        live, detail = self._ask(resource, {"ask": "status"})
        known = {one["title"]: one for one in live.get("rules", ())}
        counted = live.get("packets", {}).get("by_rule", {})
        status = self._status(resource, instance)
        rules = []
        for rule in instance.cluster.rules:
            if scope.means(rule):
                hosts = [self._rule_on(instance, rule, host, known.get(rule.title)) for host in status["hosts"]]
                for host in hosts:
                    host["packets"] = counted.get(rule.title) if host.pop("here") else None
                rules.append({"title": rule.title, "hosts": hosts})
        return status | {"rules": rules, "packets": live.get("packets"), "detail": detail}

    def _rule_on(self, instance: Instance, rule: PortRule, host: Plain, known: Mapping[str, Any] | None) -> Plain:
        words = {"enable": "enabled", "disable": "disabled", "drain": "draining"}
        state = words[instance.wishes_for(host["node"]).of(rule).value]
        because = ""
        weight = share = None
        if rule.mode is FilteringMode.DISABLED:
            state, because = "disabled", "The rule is disabled on all hosts."
        if known is not None:
            share = known["buckets"].get(str(host["id"]), 0)
            if host["here"]:
                state, because, weight = known["state"], known["because"], known["weight"]
        return {
            **{key: host[key] for key in ("id", "node", "dip", "here")},
            "state": state,
            "because": because,
            "weight": weight,
            "buckets": share,
        }

    @query()
    def params(self, name: str) -> Plain:
        """The parameters of this node's host under the names of the original, rules and statistics."""
        resource, instance = self.balanced(name)
        live, _ = self._ask(resource, {"ask": "status"})
        return {
            "parameters": self._parameters(instance, live),
            "rules": [self._rule_row(instance, rule) for rule in instance.cluster.rules],
            "statistics": dict(live.get("statistics", {})),
        }

    @query()
    def display(self, name: str) -> Plain:
        """All that this node can tell."""
        resource, instance = self.balanced(name)
        live, _ = self._ask(resource, {"ask": "status"})
        return {
            "parameters": self._parameters(instance, live),
            "rules": [self._rule_row(instance, rule) for rule in instance.cluster.rules],
            "events": list(live.get("events", ())),
            "addresses": [str(vip) for vip in instance.cluster.all_vips],
            "packets": live.get("packets"),
            **self._status(resource, instance),
        }

    @query()
    def reload(self, name: str) -> Plain:
        """Whether the host on this node uses the parameters as they are now."""
        resource, _ = self.balanced(name)
        live, detail = self._ask(resource, {"ask": "status"})
        wanted = digest(self._private(resource))
        in_use = live.get("parameters_digest") == wanted
        because = detail or live.get("parameters_trouble") or "The new parameters are being taken over."
        return {"in_use": in_use, "because": "" if in_use else because}

    @query()
    def connections(self, name: str) -> Plain:
        """The connections that this node's host tracks."""
        resource, _ = self.balanced(name)
        return self._need(resource, {"ask": "connections"})

    @query()
    def history(self, name: str) -> Plain:
        """How this node's host converged."""
        resource, _ = self.balanced(name)
        return {"steps": list(self._need(resource, {"ask": "status"}).get("history", ()))}

    @query()
    def explain(self, name: str, protocol: str, client: str, server: str, flags: str = "") -> Plain:
        """Which host takes a packet with these addresses, and why."""
        resource, instance = self.balanced(name)
        question = {"ask": "explain", "protocol": protocol, "client": client, "server": server, "flags": flags}
        return {"cluster_ip": str(instance.address), **self._need(resource, question)}

    @query()
    def diagnose(self, name: str) -> Plain:
        """All that is wrong with the configuration or was noticed by the hosts, in sentences with the way out."""
        resource = self.resource(name) if self.config.resource_named(name) else self.balanced(name)[0]
        instance, problems = self._read(resource)
        findings = [f"{problem}." if not problem.endswith(".") else problem for problem in problems]
        if instance is not None:
            findings += self._differences(resource, instance)
        live, detail = self._ask(resource, {"ask": "status"})
        findings += live.get("findings", ())
        findings += [f"{trouble}." for trouble in (live.get("parameters_trouble"),) if trouble]
        if detail and instance is not None and instance.host(self.node(None).name) is not None:
            findings.append(detail)
        return {"cluster": resource.name, "findings": findings}

    def _differences(self, resource: Resource, instance: Instance) -> list[str]:
        """Hosts and nodes that do not match, and resources that rules name."""
        found = []
        members = {node.name.casefold(): node for node in self.config.nodes.values()}
        possible = resource.possible_owners
        for one in instance.hosts:
            node = members.get(one.node.casefold())
            if node is None:
                found.append(f"{one.node} is a host, but no node of this cluster; 'nlb removehost' removes it.")
            elif possible is not None and node.id not in possible:
                found.append(
                    f"{one.node} is a host, but no possible owner of {resource.name!r}; 'cluster res' adds it."
                )
        owners = [node for node in self.config.nodes.values() if possible is None or node.id in possible]
        found += [
            f"{node.name} may run {resource.name!r}, but HostParameters does not name it; 'nlb addhost' adds it."
            for node in owners
            if instance.host(node.name) is None
        ]
        found += [
            f"Port rule '{rule.title}' is bound to the resource {rule.resource!r}, which does not exist, so no host"
            " takes its clients."
            for rule in instance.cluster.rules
            if rule.resource and self.config.resource_named(rule.resource) is None
        ]
        found += [
            f"HostStates names {node!r}, which is no host; its commands have no effect."
            for node in instance.wishes
            if instance.host(node) is None
        ]
        return found

    @query()
    def host_list(self) -> list[str]:
        """Where every node is administered, one HOST:PORT for each."""
        return [
            f"{node.addresses[0]}:{node.admin_port}"
            for node in self.config.nodes.values()
            if node.admin_port and node.addresses
        ]

    # --- helpers ----------------------------------------------------------------------------------------------------

    def all_balanced(self) -> list[tuple[Resource, Instance]]:
        """All clusters that can be understood, in the order of their creation."""
        found = []
        for resource in self.config.resources.values():
            if resource.type == TYPE_NAME and resource.instance_of is None:
                instance, _ = self._read(resource)
                if instance is not None:
                    found.append((resource, instance))
        return found

    def balanced(self, name: str) -> tuple[Resource, Instance]:
        """The cluster with that address, full name or resource. Raises Refused."""
        wanted = name.strip().casefold()
        address = _address(wanted)
        everything = self.all_balanced()
        for resource, instance in everything:
            names = {resource.name.casefold(), instance.cluster.name.casefold()}
            if wanted in names or (address is not None and address in instance.cluster.all_vips):
                return resource, instance
        named = self.config.resource_named(name)
        if named is not None and named.type == TYPE_NAME:
            raise Refused(reports.not_set_up(named.name, "; ".join(self._read(named)[1])))
        listed = ", ".join(f"{instance.address} ({resource.name})" for resource, instance in everything) or "none"
        raise Refused(_not_found(f"There is no load-balanced cluster {name!r}; the clusters are: {listed}."))

    def _read(self, resource: Resource) -> tuple[Instance | None, tuple[str, ...]]:
        return read_instance(self._private(resource))

    def _private(self, resource: Resource) -> Mapping[str, PropertyValue]:
        private = with_profile(resource.private, self.config.timing.profile)
        return complete_private(self.type_info(TYPE_NAME), private)

    def _cluster(self, resource: Resource, instance: Instance) -> Plain:
        _, problems = self._read(resource)
        return {
            "name": resource.name,
            "group": self.config.groups[resource.group].name,
            "here": self.node(None).name,
            "cluster_ip": str(instance.address),
            "prefix": instance.cluster.address.prefix,
            "vips": [str(vip) for vip in instance.cluster.all_vips],
            "full_name": instance.cluster.name,
            "mode": instance.cluster.mode.value,
            "mac": mac_text(instance.cluster.link_address()),
            "buckets": instance.cluster.bucket_count,
            "rules": [self._rule_row(instance, rule) for rule in instance.cluster.rules],
            "hosts": [self._host_row(instance, one) for one in instance.hosts],
            "problems": list(problems),
        }

    def _host_row(self, instance: Instance, one: HostParameters) -> Plain:
        shares = [(f"weight:{each.scope.text()}", each.number) for each in one.weights]
        shares += [(f"handling:{each.scope.text()}", each.number) for each in one.handling]
        return {
            "node": one.node,
            "id": int(one.host),
            "dip": _dip(one),
            "interface": instance.interface_on(one.node),
            "wish": instance.wishes_for(one.node).host.value,
            "shares": shares,
        }

    def _rule_row(self, instance: Instance, rule: PortRule) -> Plain:
        here = instance.host(self.node(None).name)
        load = (
            rule.load if here is None or not any(each.scope.means(rule) for each in here.weights) else here.weight(rule)
        )
        return {
            "text": rule.text(),
            "title": rule.title,
            "vip": rule.vip_text,
            "start": rule.start_port,
            "end": rule.end_port,
            "protocol": rule.protocol.value,
            "mode": rule.mode.value,
            "affinity": rule.affinity.value,
            "load": load,
            "priority": here.handling_priority(rule) if here is not None else None,
            "timeout_min": rule.timeout_min,
            "resource": rule.resource,
            "probe": rule.probe.text() if rule.probe is not None else "",
        }

    def _commanded(
        self, name: str, instance: Instance, command: str, host: str, ports: str
    ) -> list[tuple[HostParameters, Wishes, ControlStatus]]:
        if command not in (*HOST_COMMANDS, *RULE_COMMANDS):
            raise Refused(reports.bad_argument(f"{command!r} is not a control command."))
        hosts = [self._one_host(instance, host, name)] if host else instance.hosts
        if not hosts:
            raise Refused(_not_found(f"{instance.address} has no hosts; 'nlb addhost' adds one."))
        result = []
        for one in hosts:
            before = instance.wishes_for(one.node)
            if command in HOST_COMMANDS:
                after, status = command_host(before, command)
            else:
                after, status = command_rules(before, command, instance.cluster.rules, _scope(ports))
            result.append((one, after, status))
        return result

    def _one_host(self, instance: Instance, wanted: str, name: str = "") -> HostParameters:
        """The host of that number, dedicated address or node; ``0`` is the default host of now."""
        if wanted == "0" and name:
            resource, _ = self.balanced(name)
            wanted = str(self._need(resource, {"ask": "status"})["default_host"])
        for one in instance.hosts:
            if wanted.casefold() in (str(one.host), one.node.casefold(), _dip(one).split("/")[0] or None):
                return one
        listed = ", ".join(f"{one.host} ({one.node})" for one in instance.hosts) or "none"
        raise Refused(_not_found(f"{instance.address} has no host {wanted!r}; its hosts are: {listed}."))

    def _status(self, resource: Resource, instance: Instance) -> Plain:
        live, detail = self._ask(resource, {"ask": "status"})
        seen = {one["id"]: one for one in live.get("hosts", ())}
        here = self.node(None).name
        hosts = []
        for one in instance.hosts:
            wish = instance.wishes_for(one.node).host
            state = {"state": "unknown", "members": [], "entered": 0, "because": ""} | seen.get(int(one.host), {})
            if state["state"] == "unknown":
                state |= self._state_from_afar(resource, one, wish)
            hosts.append({**state, "id": int(one.host), "node": one.node, "dip": _dip(one), "here": one.node == here})
        return {
            "cluster_ip": str(instance.address),
            "name": resource.name,
            "from": here,
            "default_host": live.get("default_host", 0),
            "hosts": hosts,
            "detail": detail,
        }

    def _state_from_afar(self, resource: Resource, one: HostParameters, wish: HostWish) -> Plain:
        """What follows for a host that this node does not hear."""
        if wish is HostWish.SUSPENDED:
            return {"state": "suspended"}
        node = self.config.node_named(one.node)
        state = self._state_on(resource, node.id) if node is not None and node.up else None
        if wish is HostWish.STOPPED or state in (None, ResourceState.OFFLINE, ResourceState.FAILED):
            return {"state": "stopped"}
        return {"because": "this node takes no part itself, or does not hear that host"}

    def _state_on(self, resource: Resource, node: int) -> ResourceState | None:
        """The state of the resource, or of its copy, on a node."""
        for each in self.config.resources.values():
            if each.type == TYPE_NAME and (each.id == resource.id or each.instance_of == resource.id):
                group = self.config.groups[each.group]
                if group.owned == node:
                    return each.state
        return None

    def _ask(self, resource: Resource, question: Plain) -> tuple[Plain, str]:
        """The answer of this node's host, or nothing and why."""
        try:
            return dict(self.access.ask_balancer(resource.id, question)), ""
        except ClusterError as error:
            return {}, f"{error.message}."

    def _need(self, resource: Resource, question: Plain) -> Plain:
        answer, why = self._ask(resource, question)
        if why:
            raise Refused(Report(code="host-not-running", status=ControlStatus.STOPPED.value, message=why))
        if "refused" in answer:
            raise Refused(reports.bad_argument(str(answer["refused"])))
        return answer

    def _parameters(self, instance: Instance, live: Mapping[str, Any]) -> list[tuple[str, str]]:
        """In the order of the original; what has no meaning here says so."""
        node = self.node(None)
        here = instance.host(node.name)
        dip = here.dips[0] if here is not None and here.dips else None
        team = instance.cluster.team
        wish = instance.wishes_for(node.name).host
        states = {
            HostWish.STARTED: "STARTED",
            HostWish.STOPPED: "STOPPED",
            HostWish.DRAINING: "STOPPED",
            HostWish.SUSPENDED: "SUSPENDED",
        }
        return [
            ("Current time", time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())),
            ("HostName", node.name),
            ("ParametersVersion", "4"),
            ("CurrentVersion", "00000204"),
            ("EffectiveVersion", "00000204"),
            ("InstallDate", NOT_USED),
            ("HostPriority", str(here.host) if here is not None else "0"),
            ("ClusterIPAddress", str(instance.address)),
            ("ClusterNetworkMask", _mask(instance.cluster.address)),
            ("DedicatedIPAddress", str(dip.address) if dip else ""),
            ("DedicatedNetworkMask", _mask(dip) if dip else ""),
            (
                "McastIPAddress",
                str(igmp_group(instance.address)) if instance.cluster.mode is OperationMode.IGMP else NO_ADDRESS,
            ),
            ("ClusterName", instance.cluster.name),
            ("ClusterNetworkAddress", mac_text(instance.cluster.link_address())),
            ("IPToMACEnable", _flag(instance.cluster.mac is None)),
            ("MulticastSupportEnable", _flag(instance.cluster.mode is not OperationMode.UNICAST)),
            ("IGMPSupport", _flag(instance.cluster.mode is OperationMode.IGMP)),
            ("MulticastARPEnable", _flag(True)),
            ("MaskSourceMAC", _flag(True)),
            ("AliveMsgPeriod", str(instance.cluster.period_ms)),
            ("AliveMsgTolerance", str(instance.cluster.tolerance)),
            ("NumActions", NOT_USED),
            ("NumPackets", NOT_USED),
            ("NumAliveMsgs", NOT_USED),
            ("DescriptorsPerAlloc", NOT_USED),
            ("MaxDescriptorAllocs", NOT_USED),
            ("TCPConnectionTimeout", str(instance.cluster.tcp_timeout_s)),
            ("IPSecConnectionTimeout", str(instance.cluster.ipsec_timeout_s)),
            ("FilterICMP", _flag(instance.cluster.filter_icmp)),
            ("ClusterModeOnStart", states[wish]),
            ("HostState", states[wish] if live else "STOPPED"),
            ("PersistedStates", "STARTED, STOPPED, SUSPENDED"),
            ("ScaleSingleClient", NOT_USED),
            ("NBTSupportEnable", NOT_USED),
            ("NetmonAliveMsgs", NOT_USED),
            ("IPChangeDelay", NOT_USED),
            ("ConnectionCleanupDelay", NOT_USED),
            ("RemoteControlEnabled", _flag(True)),
            ("RemoteControlUDPPort", NOT_USED),
            ("RemoteControlCode", NOT_USED),
            ("RemoteMaintenanceEnabled", NOT_USED),
            ("BDATeaming", "YES" if team else "NO"),
            ("TeamID", team.id if team else ""),
            ("Master", "YES" if team and team.master else "NO"),
            ("ReverseHash", "YES" if team and team.reverse_hash else "NO"),
            ("IdentityHeartbeatPeriod", "10000"),
            ("IdentityHeartbeatEnabled", _flag(True)),
        ]


def _flag(enabled: bool) -> str:
    return "ENABLED" if enabled else "DISABLED"


def _mask(given: InterfaceAddress) -> str:
    if given.address.version == 6:
        return f"/{given.prefix}"
    return str(ip_address((0xFFFF_FFFF << (32 - given.prefix)) & 0xFFFF_FFFF))


def _dip(host: HostParameters) -> str:
    """The dedicated address that is shown; a host may have further ones."""
    return host.dips[0].text() if host.dips else ""


def _scope(ports: str) -> RuleScope:
    scope = parse_scope(ports)
    if scope is None:
        raise Refused(reports.bad_argument(f"{ports!r} names no port rules; write PORT, VIP:PORT, all:PORT or all."))
    return scope


def _address(text: str) -> object | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _not_found(message: str) -> Report:
    return Report(code="nlb-not-found", status=ControlStatus.NOT_FOUND.value, message=message)
