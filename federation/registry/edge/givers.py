"""Who gives a process its identity: the agent beside it, or one on another machine, to a machine or to a pod."""

from __future__ import annotations

from federation.aio.clock import Clock
from federation.registry.edge.afar import AfarIdentity
from federation.registry.edge.keys import BesideIdentity, Giver
from federation.registry.edge.pod import PodIdentity
from federation.registry.edge.settings import EdgeSettings
from federation.registry.edge.state import StateDirectory


def giver(settings: EdgeSettings, state: StateDirectory, clock: Clock) -> Giver:
    """As the settings say where the agent is."""
    namespace, account = settings.namespace, settings.account
    if settings.agent is None:
        return BesideIdentity(settings.identity_socket, namespace, account, clock=clock)
    if settings.in_pod:
        return PodIdentity(settings.agent, namespace=namespace, account=account)
    return AfarIdentity(
        settings.agent, vm=settings.name, namespace=namespace, account=account, key_file=state.machine_key
    )
