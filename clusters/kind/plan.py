"""What has to be done so that a cluster is what it should be: pure, from what is wanted and what was found.

A cluster that was made whole is never made anew because something in it fails: its nodes are started, thawed, waited
for. It is made anew where kind cannot give it back what is lost (a node), or where its making was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clusters.kind.config import Wanted
from clusters.kind.engine import Node
from federation.errors import AlreadyExists, Conflict

Verb = Literal["delete", "create", "unpause", "start", "export", "wait", "guard", "flatten"]
"""`export`: write its kubeconfig; `guard`: nobody outside opens a connection to it; `flatten`: routes between Pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A cluster as it is."""

    nodes: tuple[Node, ...] = ()
    made: str | None = None
    """The digest that it was made with; None where it was never whole."""
    config: bool = False
    """Its kubeconfig is in our folder, and for this cluster."""
    ready: bool = False
    """Its API server answers and every node is ready."""
    guarded: bool = False
    """Its nodes have the rules of a cluster behind NAT, for the addresses that they have now."""
    flat: bool = False
    """Its nodes have the routes of a flat network."""

    @property
    def stopped(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.nodes if n.state not in ("running", "paused"))

    @property
    def paused(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.nodes if n.state == "paused")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do to a cluster, with its reason where that is not plain."""

    verb: Verb
    nodes: tuple[str, ...] = ()
    why: str = ""


def plan(wanted: Wanted, found: Found, *, mark: str, flat: bool = False) -> list[Step]:
    """The steps in their order; none for a cluster that is as it should be.

    Raises AlreadyExists (`foreign_cluster`) for a cluster of that name that is not marked by `mark`, Conflict
    (`other_settings`) for one of ours that was made with other settings.
    """
    if not found.nodes:
        return _create(wanted, flat)
    if any(mark not in node.marks for node in found.nodes):
        raise AlreadyExists(
            f"there is a kind cluster {wanted.name} that is not of this topology",
            hint=f"kind delete cluster --name {wanted.name}, or name the topology otherwise",
            code="foreign_cluster",
        )
    if found.made is None:
        return [_delete(found, "its making was interrupted"), *_create(wanted, flat)]
    if found.made != wanted.digest:
        raise Conflict(
            f"{wanted.cluster} was made with other settings",
            hint="take the topology down and up again, or give the settings that it was made with",
            code="other_settings",
        )
    if missing := sorted(set(wanted.nodes) - {node.name for node in found.nodes}):
        return [_delete(found, f"{', '.join(missing)} is gone"), *_create(wanted, flat)]
    return _repair(wanted, found, flat)


def _repair(wanted: Wanted, found: Found, flat: bool) -> list[Step]:
    steps: list[Step] = []
    if found.paused:
        steps.append(Step("unpause", found.paused))
    if found.stopped:
        steps.append(Step("start", found.stopped))
    if not found.config or found.stopped:
        steps.append(Step("export"))
    if found.paused or found.stopped or not found.ready:
        steps.append(Step("wait"))
    return steps + _rules(wanted, flat, guarded=found.guarded, routed=found.flat, renewed=bool(found.stopped))


def _create(wanted: Wanted, flat: bool) -> list[Step]:
    return [Step("create", wanted.nodes), Step("wait"), *_rules(wanted, flat)]


def _rules(
    wanted: Wanted, flat: bool, *, guarded: bool = False, routed: bool = False, renewed: bool = False
) -> list[Step]:
    """A node that starts has a network without rules, and may have another address."""
    steps = []
    if wanted.spec.nodes.nat and (renewed or not guarded):
        steps.append(Step("guard"))
    if flat and (renewed or not routed):
        steps.append(Step("flatten"))
    return steps


def _delete(found: Found, why: str) -> Step:
    return Step("delete", tuple(node.name for node in found.nodes), why)
