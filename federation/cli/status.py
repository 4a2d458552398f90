"""fedctl status: is the federation whole, and if not, what is wrong where.

Arrives: what the registry and every agent known here say of applied revisions, leases and problems. `assess` is pure:
it turns that into findings. Status never repeats a claim like "connected"; it compares revisions that were applied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from federation.cli.clients import home_of, operator
from federation.cli.home import Home
from federation.cli.output import Format, OutputOption, Printer
from federation.cli.replicas import Answer, ask, served, unknown
from federation.errors import IsthmusError, TimedOut, Unavailable
from federation.proto.v1 import agent_pb2, registry_pb2

_NOT_LIVE = {
    "pending": "it has not reported yet: is its agent started?",
    "stale": "it has not been heard of for longer than its lease; its last report counts",
}


PATIENCE = 3.0
"""Seconds that status gives each process to answer: one that takes longer is a finding of its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: a stable code, who or what, and the detail."""

    code: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What could be learnt; `unreachable` holds the error per agent ("registry" for the registry)."""

    registry: registry_pb2.RegistryStatus | None = None
    clusters: Sequence[registry_pb2.ClusterInfo] = ()
    links: Sequence[registry_pb2.LinkInfo] = ()
    agents: Mapping[str, agent_pb2.AgentStatus] = field(default_factory=dict)
    unreachable: Mapping[str, IsthmusError] = field(default_factory=dict)
    replicas: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    """What each replica of an agent says, the one in `agents` first; only of agents that have some."""

    def answers(self, cluster: str) -> Sequence[Answer]:
        """Of the agent of `cluster`, which is in `agents`."""
        return self.replicas.get(cluster) or (Answer("", self.agents[cluster]),)


def assess(seen: Seen) -> list[Finding]:
    """Everything that keeps the federation from being whole: first who cannot be reached, then by where it lies."""
    findings = [
        Finding("registry_unreachable" if name == "registry" else "agent_unreachable", name, str(error))
        for name, error in seen.unreachable.items()
    ]
    if seen.registry is not None:
        findings += [Finding(p.code, p.subject or "registry", p.detail) for p in seen.registry.problems]
    away: set[str] = set()
    for cluster in seen.clusters:
        if cluster.state != "live":
            detail = _NOT_LIVE.get(cluster.state, f"the registry calls it {cluster.state}")
            if cluster.state == "pending" and cluster.name in seen.agents:
                detail = "it has not reported yet, and its agent runs: see what it says of itself"
            findings.append(Finding("cluster_not_live", cluster.name, detail))
            away.add(cluster.name)
        elif not cluster.gateways and cluster.outbound_only:
            if cluster.services:  # its agent says so, which is told once
                away.add(cluster.name)
        elif not cluster.gateways:
            findings.append(Finding("no_gateway", cluster.name, "it has no gateway: peers cannot call it"))
            away.add(cluster.name)
        if cluster.name not in seen.agents:
            findings += [Finding(p.code, f"{cluster.name}: {p.subject}", p.detail) for p in cluster.problems]
    # One cause is told once: a cluster that is away, or the reason that an agent names, shows at links and peers too.
    reasons = tuple(p.detail for status in seen.agents.values() for p in status.problems if p.detail)
    findings += [
        Finding("link_not_live", f"{info.link.a}/{info.link.b}", info.detail or info.state)
        for info in seen.links
        if info.state != "live" and not info.detail.endswith(reasons) and away.isdisjoint((info.link.a, info.link.b))
    ]
    for name, status in seen.agents.items():
        findings += _assess_agent(name, status, away)
        findings += _assess_consumers(name, seen.answers(name))
    return findings


def _assess_agent(name: str, status: agent_pb2.AgentStatus, away: Collection[str]) -> list[Finding]:
    findings = [Finding(p.code, f"{name}: {p.subject}" if p.subject else name, p.detail) for p in status.problems]
    reasons = {p.detail for p in status.problems}
    if not status.registry_connected and status.registry_detail not in reasons:
        detail = status.registry_detail or "it serves its last view"
        findings.append(Finding("registry_lost", name, detail))
    findings += [
        Finding("peer_not_live", f"{name} -> {peer.cluster}", peer.detail or peer.state)
        for peer in status.peers
        if peer.state != "live" and peer.detail not in reasons and peer.cluster not in away
    ]
    return findings


def _assess_consumers(name: str, answers: Sequence[Answer]) -> list[Finding]:
    findings = [
        Finding(
            "replica_unreachable",
            f"{name}: {answer.replica}",
            f"whom this replica of the agent serves is not known: {answer.failure}",
        )
        for answer in answers
        if answer.failure is not None
    ]
    for consumer in (one.consumer for one in served(answers)):
        who = f"{name}: {consumer.role} {consumer.name}"
        if not consumer.connected:
            findings.append(
                Finding("consumer_lost", who, "it is not connected to its agent: has it stopped? see its log")
            )
        elif consumer.applied_revision < consumer.offered_revision:
            behind = consumer.offered_revision - consumer.applied_revision
            findings.append(Finding("consumer_behind", who, f"its Envoy has yet to take up {behind} revisions"))
        findings += [Finding(p.code, f"{who}: {p.subject}", p.detail) for p in consumer.problems]
    return findings


async def look(home: Home) -> Seen:
    """Ask the registry and every agent known here, at once; who cannot be reached is named."""
    unreachable: dict[str, IsthmusError] = {}
    agents: dict[str, agent_pb2.AgentStatus] = {}
    replicas: dict[str, Sequence[Answer]] = {}

    async def ask_agent(name: str) -> None:
        try:
            answers = await ask(home, name, timeout=PATIENCE)
        except IsthmusError as error:
            unreachable[name] = error
            return
        if (status := answers[0].status) is not None:
            agents[name] = status
        replicas[name] = answers

    async def ask_registry() -> Seen:
        try:
            async with operator(home, timeout=PATIENCE) as registry:
                return Seen(
                    registry=await registry.status(),
                    clusters=await registry.clusters(),
                    links=await registry.links(),
                )
        except IsthmusError as error:
            unreachable["registry"] = error
            return Seen()

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask_registry(), name="status-registry")
        for name in home.clusters:
            group.create_task(ask_agent(name), name=f"status-{name}")
    seen = asked.result()
    return Seen(
        registry=seen.registry,
        clusters=seen.clusters,
        links=seen.links,
        agents=dict(sorted(agents.items())),
        unreachable=dict(sorted(unreachable.items())),
        replicas=replicas,
    )


def status(
    context: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until everything is as it should be.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 60.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Is the federation whole? Exit status 0 if so, 6 if not, 11 if --wait ran out of time."""
    home = home_of(context)
    home.operator_directory()
    seen, findings = asyncio.run(_settle(home, timeout if wait else 0.0))
    printer = Printer(output)
    if output is Format.TABLE:
        printer.rows(
            ("cluster", "state", "applied", "exports", "down", "imports", "consumers", "registry"),
            rows(seen),
            empty="no clusters",
        )
        for row in rows(seen):
            if row["replica"] is not None:
                print(leads(row["cluster"], row["replica"]))
        for name in seen.agents:
            for line in unknown(name, seen.answers(name)):
                print(line)
        for finding in findings:
            print(f"✗ {finding.subject}: {finding.detail} [{finding.code}]")
        if not findings:
            print("✓ everything is as it should be")
    else:
        found = [{"code": f.code, "subject": f.subject, "detail": f.detail} for f in findings]
        printer.item({"ok": not findings, "clusters": rows(seen), "findings": found}, line="")
    if findings and wait:
        raise TimedOut(f"not whole after {timeout:g} s: {findings[0].subject}: {findings[0].detail}")
    if findings:
        raise Unavailable(f"{len(findings)} finding(s)", code="not_whole", hint="see the lines above")


async def _settle(home: Home, timeout: float) -> tuple[Seen, list[Finding]]:
    deadline = time.monotonic() + timeout
    while True:
        seen = await look(home)
        findings = assess(seen)
        if not findings or time.monotonic() >= deadline:
            return seen, findings
        await asyncio.sleep(0.1)


def rows(seen: Seen) -> list[dict[str, Any]]:
    """One for each cluster that anybody knows of."""
    states = {c.name: c for c in seen.clusters}
    rows = []
    for name in sorted({*states, *seen.agents, *(n for n in seen.unreachable if n != "registry")}):
        info, own = states.get(name), seen.agents.get(name)
        rows.append(
            {
                "cluster": name,
                "state": info.state if info else "unknown",
                "applied": info.applied_revision if info else None,
                "exports": own.exports if own else (info.services if info else None),
                # Exports of which no copy is ready there: no fault of the federation, and worth knowing.
                "down": own.exports_down if own else None,
                "imports": own.imports if own else None,
                "consumers": len(served(seen.answers(name))) if own else None,
                "registry": None if own is None else "connected" if own.registry_connected else "lost",
                "replica": _replica(own.replica) if own is not None and own.HasField("replica") else None,
            }
        )
    return rows


def _replica(found: agent_pb2.ReplicaStatus) -> dict[str, Any]:
    since = datetime.fromtimestamp(found.since_ns // 1_000_000_000, UTC) if found.since_ns else None
    return {
        "asked": found.identity,
        "leader": found.leader or None,
        "since": since.strftime("%Y-%m-%dT%H:%M:%SZ") if since is not None else None,
        "leading": found.leading,
        "reporting": found.reporting,
        "expired": found.expired,
    }


def leads(cluster: str, replica: Mapping[str, Any]) -> str:
    """Which replica of a cluster's agent writes and reports, in one line."""
    if replica["leader"] is None:
        return f"{cluster}: no replica is known to lead; {replica['asked']} was asked"
    who = "the one asked" if replica["leader"] == replica["asked"] else f"{replica['asked']} was asked"
    since = f" since {replica['since']}" if replica["since"] else ""
    ended = ", and has not renewed its Lease in time" if replica["expired"] else ""
    also = ", which reports, too" if replica["reporting"] and not replica["leading"] else ""
    return f"{cluster}: {replica['leader']} leads{since}{ended}; {who}{also}"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("status", epilog="Example: fedctl status --wait --timeout 30 -o json")(status)
