"""/metrics, /healthz and /readyz of an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge

from federation.errors import Unavailable
from federation.metrics import MetricsServer
from federation.model.address import split_address

if TYPE_CHECKING:
    from discovery.agent import Agent

STUCK_SECONDS = 30.0
"""An event loop that has not turned for so long is not alive."""


def serve(agent: Agent) -> MetricsServer:
    """Started on the address of the settings; the caller closes it. Raises Unavailable where the port is taken."""
    registry, loop, doors = CollectorRegistry(), asyncio.get_running_loop(), agent.doors
    for name, text, value in (
        ("isthmus_agent_exports", "Services exported", lambda: len(agent.source.state.value.exports)),
        ("isthmus_agent_imports", "Imports served", lambda: len(agent.view.imports)),
        ("isthmus_agent_peers", "Linked clusters that are trusted", lambda: sum(n.trusted for n in agent.view.linked)),
        ("isthmus_agent_problems", "Problems that are reported", lambda: len(agent.problems.all())),
        ("isthmus_agent_consumers", "Open streams of gateways and sidecars", lambda: agent.server.catalog.streams),
        (
            "isthmus_agent_slow_consumers",
            "Consumers closed for being slow",
            lambda: agent.server.catalog.slow_consumers,
        ),
        ("isthmus_agent_gateways", "Gateways of this cluster", lambda: len(agent.consumers.gateways.value)),
        (
            "isthmus_agent_vm_services",
            "Services that VMs register",
            lambda: len(agent.workloads.state.value.services),
        ),
        ("isthmus_agent_epoch", "Epoch of the report", lambda: agent.report.records.epoch),
        ("isthmus_agent_sequence", "Sequence of the report", lambda: agent.report.records.sequence),
        ("isthmus_agent_view_revision", "Revision of the merged view", lambda: agent.view.records.log.revision),
        ("isthmus_agent_registry_revision", "Revision of the registry", lambda: agent.sink.replica.revision),
        ("isthmus_agent_registry_watched", "1 while the registry is watched", lambda: agent.watch.connected),
        ("isthmus_agent_registry_published", "1 while the report is published", lambda: agent.publish.connected),
        ("isthmus_agent_leads", "1 while this replica is the one that writes", lambda: _leads(agent)),
        ("isthmus_agent_identities_issued", "Identities given to local processes", lambda: agent.identity.issued),
        ("isthmus_agent_identities_refused", "Identities refused", lambda: agent.identity.refused),
        ("isthmus_agent_tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks(loop))),
        ("isthmus_agent_vms", "Virtual machines, invited or joined", lambda: len(agent.vms.vms)),
        (
            "isthmus_agent_vm_identities_issued",
            "Identities given to virtual machines",
            lambda: doors.vm_calls.issued,
        ),
        ("isthmus_agent_vm_identities_refused", "Virtual machines turned away", lambda: doors.vm_calls.refused),
        ("isthmus_agent_pod_identities_issued", "Identities given to pods", lambda: doors.pod_calls.issued),
        ("isthmus_agent_pod_identities_refused", "Pods turned away", lambda: doors.pod_calls.refused),
        ("isthmus_agent_identity_expires_seconds", "Until the agent's own expires", agent.renewer.expires_in),
    ):
        _gauge(registry, name, text, value)
    if agent.dns is not None:
        registry.register(agent.dns.server.collector)

    def alive() -> tuple[bool, str]:
        idle = agent.clock.monotonic() - agent.turned
        return idle < STUCK_SECONDS, f"the event loop has not turned for {idle:.0f} s" if idle >= STUCK_SECONDS else ""

    def ready() -> tuple[bool, str]:
        return agent.serving, "" if agent.serving else "the manifests have not been read yet"

    host, port = split_address(agent.settings.metrics, what="metrics")
    try:
        server = MetricsServer(registry, host=host, port=port, alive=alive, ready=ready)
    except OSError as error:
        raise Unavailable(
            f"cannot serve metrics on {agent.settings.metrics}: {error.strerror}",
            hint="is another process using the port? change `metrics` in the settings",
            code="port_taken",
        ) from error
    server.start()
    return server


def _leads(agent: Agent) -> bool:
    """An agent that reads files alone is the only one."""
    return agent.election is None or agent.election.leader.value is not None


def _gauge(registry: CollectorRegistry, name: str, text: str, value: Callable[[], float]) -> None:
    Gauge(name, text, registry=registry).set_function(lambda: float(value()))
