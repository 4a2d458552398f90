"""Findings after the installation: agents, registry, gateways, trust, names. Pure, from facts.

One cause is told once: what an agent cannot say because it does not answer is not told again for each thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from federation.cli.checks import before
from federation.cli.checks.facts import AgentFacts, FederationFacts, KubeFacts
from federation.cli.checks.finding import Code, Finding, error, ok, shown, warning
from federation.proto.v1 import agent_pb2 as pb

_HOUR_NS = 3_600 * 1_000_000_000


def federation(facts: FederationFacts) -> Iterator[Finding]:
    """Everything that is known without an API server."""
    yield from _registry(facts)
    for agent in facts.agents:
        yield from _agent(agent, facts)
    answering = {a.cluster: a for a in facts.agents if a.failure is None}
    yield from _links(facts)
    yield from _names(facts)
    yield from _pins(answering)
    yield from _versions(facts)
    flat = _flat(answering, facts)
    if len(flat) > 1:
        yield from before.ranges(flat, flat=True)


def _registry(facts: FederationFacts) -> Iterator[Finding]:
    registry = facts.registry
    if registry is None:
        return
    if registry.failure is not None:
        todo = "is it running? agents serve their last view until it is back"
        yield error(Code.REGISTRY, "registry", registry.failure.message, registry.failure.hint or todo)
        return
    problems = registry.status.problems if registry.status is not None else ()
    for problem in problems:
        yield error(Code.PROBLEMS, f"registry: {problem.subject}", f"{problem.detail} [{problem.code}]", _SEE)
    yield ok(Code.REGISTRY, "registry", f"{registry.address} answers")
    if registry.clock_ns is not None:
        yield before.clock("the registry", *registry.clock_ns)
    for member in registry.members or ():
        if member.state == "pending":
            todo = f"start its agent, or take it out: fedctl cluster leave {member.name}"
            yield warning(Code.CONNECTION, member.name, "it has joined and not reported yet", todo)
        elif member.state != "live":
            told = "the registry has not heard of its agent for longer than a lease; its last report counts"
            yield error(Code.CONNECTION, member.name, told, "is its agent running, and does it reach the registry?")


_SEE = "the code in brackets is the process's own: see its log, and its page in docs"


def _agent(facts: AgentFacts, all_: FederationFacts) -> Iterator[Finding]:
    name = facts.cluster
    if facts.failure is not None or facts.status is None:
        told = facts.failure.message if facts.failure is not None else "it does not answer"
        todo = facts.failure.hint if facts.failure is not None else ""
        yield error(Code.AGENT, name, told, todo or "start it, and see its log")
        return
    status = facts.status
    yield ok(Code.AGENT, name, f"it answers; version {status.version}")
    yield from _connection(name, status)
    yield from _epoch(name, status, all_)
    yield from _leader(name, status)
    for problem in status.problems:
        subject = f"{name}: {problem.subject}" if problem.subject else name
        yield warning(Code.PROBLEMS, subject, f"{problem.detail} [{problem.code}]", _SEE)
    for answer in facts.answers:
        if answer.failure is not None:
            told = f"this replica does not answer, and whom it serves is not looked at: {answer.failure.message}"
            yield warning(Code.AGENT, f"{name}: {answer.replica}", told, answer.failure.hint or _SEE)
    yield from _consumers(facts)
    if facts.seen is None:
        why = facts.seen_failure.message if facts.seen_failure is not None else "it was not asked"
        yield warning(Code.AGENT, name, f"it does not tell what it sees: {why}", "upgrade it to the version of fedctl")
        return
    yield before.clock(f"the agent of {name}", facts.seen.now_ns, facts.asked_ns)
    yield from certificates(name, facts.seen, now_ns=all_.now_ns)
    yield from _gateways(name, facts.seen, status)
    yield from _services(name, facts.seen, status)
    yield from _dns(name, facts.seen)


def _connection(name: str, status: pb.AgentStatus) -> Iterator[Finding]:
    if status.registry_connected:
        yield ok(Code.CONNECTION, name, "its agent is connected to the registry")
    else:
        told = f"its agent is not connected to the registry: {status.registry_detail or 'it serves its last view'}"
        yield error(Code.CONNECTION, name, told, "does it reach the registry's address (`registry` in its settings)?")


def _epoch(name: str, status: pb.AgentStatus, all_: FederationFacts) -> Iterator[Finding]:
    members = all_.registry.members if all_.registry is not None else None
    held = next((member for member in members or () if member.name == name), None)
    if held is None or not status.epoch:
        return
    replica = status.replica if status.HasField("replica") else None
    if replica is not None and not replica.reporting:
        return  # another replica reports, in an epoch of its own
    if held.epoch > status.epoch:
        told = f"the registry has epoch {held.epoch}, its agent reports in {status.epoch}: somebody else speaks for it"
        todo = "is a second agent of this cluster running, or was its folder restored from a copy? end one of them"
        yield error(Code.EPOCH, name, told, todo)
    elif held.epoch < status.epoch:
        told = f"the registry has epoch {held.epoch} still, its agent reports in {status.epoch}"
        yield warning(Code.EPOCH, name, told, "wait until its report has arrived: fedctl check --wait")
    else:
        yield ok(Code.EPOCH, name, f"agent and registry are in epoch {held.epoch}")


def _leader(name: str, status: pb.AgentStatus) -> Iterator[Finding]:
    if not status.HasField("replica"):
        return
    replica = status.replica
    if not replica.leader:
        yield error(
            Code.LEADER, name, "no replica of its agent leads: nothing is written or reported", "see the agents' logs"
        )
    elif replica.expired:
        told = f"{replica.leader} leads, and has not renewed its Lease in time"
        yield warning(Code.LEADER, name, told, "does it reach its API server? another replica takes over by itself")
    else:
        yield ok(Code.LEADER, name, f"{replica.leader} leads")


def _consumers(facts: AgentFacts) -> Iterator[Finding]:
    name, good = facts.cluster, 0
    for consumer in (one.consumer for one in facts.served):
        who = f"{name}: {consumer.role} {consumer.name}"
        if not consumer.connected:
            yield error(Code.CONSUMERS, who, "it is not connected to its agent", "has it stopped? see its log")
        elif consumer.applied_revision < consumer.offered_revision:
            behind = consumer.offered_revision - consumer.applied_revision
            told = f"its Envoy has yet to take up {behind} revisions"
            yield warning(Code.CONSUMERS, who, told, "if it does not within seconds, see its log")
        else:
            good += 1
        for problem in consumer.problems:
            yield warning(Code.PROBLEMS, f"{who}: {problem.subject}", f"{problem.detail} [{problem.code}]", _SEE)
    if good:
        yield ok(Code.CONSUMERS, name, f"{good} gateways and sidecars are in step")


def certificates(name: str, seen: pb.ExamineReply, *, now_ns: int) -> Iterator[Finding]:
    """Of the agent, its roots, and every gateway that was dialled."""
    good = 0
    for held in seen.certificates:
        found = _life(name, held.what, held.not_before_ns, held.not_after_ns, now_ns=now_ns, renews_ns=held.renews_ns)
        good += found is None
        if found is not None:
            yield found
    for gateway in seen.gateways:
        if gateway.own and gateway.not_after_ns:
            found = _life(name, f"the certificate of {gateway.name}", 0, gateway.not_after_ns, now_ns=now_ns)
            good += found is None
            if found is not None:
                yield found
    if good:
        yield ok(Code.CERTIFICATES, name, f"{good} certificates are valid")


def _life(
    name: str, what: str, not_before_ns: int, not_after_ns: int, *, now_ns: int, renews_ns: int | None = None
) -> Finding | None:
    """`renews_ns`: when it is renewed by itself; 0: it is not; None: it is, at a time that is not known."""
    left = not_after_ns - now_ns
    todo = "see the log of its process for why it was not renewed; compare the clocks"
    if left <= 0:
        return error(Code.CERTIFICATES, name, f"{what} expired {before.span(-left)} ago", todo)
    if not_before_ns > now_ns:
        told = f"{what} is not valid before {before.span(not_before_ns - now_ns)} from now"
        return error(Code.CERTIFICATES, name, told, "compare the clocks")
    if renews_ns == 0:
        if left < before.SOON_NS:
            told = f"{what} ends in {before.span(left)}, and nothing renews it by itself"
            return warning(Code.CERTIFICATES, name, told, "plan for another: docs/trust.md")
        return None
    if renews_ns is not None and now_ns > renews_ns + (not_after_ns - renews_ns) // 2:
        return warning(Code.CERTIFICATES, name, f"{what} ends in {before.span(left)}, and was not renewed", todo)
    return None


def _gateways(name: str, seen: pb.ExamineReply, status: pb.AgentStatus) -> Iterator[Finding]:
    own = [gateway for gateway in seen.gateways if gateway.own]
    if own:
        yield ok(Code.GATEWAYS, name, f"{len(own)} announced: {shown(gateway.name for gateway in own)}")
    else:
        told = "it has no gateway: other clusters cannot call it, and its workloads without a sidecar call nobody"
        yield error(Code.GATEWAYS, name, told, "start one (isthmus-gateway), and see its log")
    for peer in status.peers:
        if peer.state == "live" or (
            peer.state == "no gateway" and any(g.cluster == peer.cluster for g in seen.gateways)
        ):
            continue
        yield error(Code.LINKS, f"{name} -> {peer.cluster}", peer.detail or peer.state, _peer_todo(peer, name))
    good = []
    for gateway in seen.gateways:
        if not gateway.code:
            good.append(gateway)
            continue
        if gateway.code == OUTBOUND_ONLY:
            yield ok(Code.GATEWAY_REACH, f"{name}: {gateway.name}", gateway.detail)
            continue
        subject = f"{name} -> {gateway.cluster}: {gateway.name}"
        yield error(Code.GATEWAY_REACH, subject, f"{gateway.detail} [{gateway.code}]", _REACH.get(gateway.code, _ROUTE))
    if good:
        slowest = max(gateway.took_ns for gateway in good) / 1e6
        told = f"{len(good)} gateways complete TCP and TLS, the slowest in {slowest:.0f} ms"
        yield ok(Code.GATEWAY_REACH, name, told)


OUTBOUND_ONLY = "outbound_only"
"""What an agent says of a gateway of its own that nobody dials; that it exports all the same is told elsewhere."""
_ROUTE = "is the announced address the one that this cluster reaches? look for firewalls and routes in between"
_REACH = {
    "tls_refused": "the other end does not know this cluster's root: fedctl link, on both sides",
    "gateway_untrusted": "another process answers at this address, or the cluster was made anew: unlink and link again",
    "tls_failed": "what answers is no gateway: is the announced port the gateway's?",
}


def _peer_todo(peer: pb.PeerStatus, name: str) -> str:
    if peer.state == "unpinned":
        return f"fedctl unlink {name} {peer.cluster}, then fedctl link {name} {peer.cluster}"
    return f"look at {peer.cluster}: fedctl check where its agent is known"


def _services(name: str, seen: pb.ExamineReply, status: pb.AgentStatus) -> Iterator[Finding]:
    if seen.exports_down:
        told = f"no copy is ready of {shown(seen.exports_down)}"
        todo = "look at the endpoints: fedctl get endpoints, kubectl get endpointslices"
        yield warning(Code.EXPORTS, name, told, todo)
    else:
        yield ok(Code.EXPORTS, name, f"each of {status.exports} exports has a ready copy")
    if seen.imports_homeless:
        namespaces = sorted({text.partition("/")[0] for text in seen.imports_homeless})
        told = f"{len(seen.imports_homeless)} services are not imported: there is no namespace {shown(namespaces)}"
        todo = "kubectl create namespace, or set kubernetes.create_namespaces of the agent"
        yield warning(Code.NAMESPACES, name, told, todo)
    else:
        yield ok(Code.NAMESPACES, name, f"all {status.imports} imports have their namespace")
    if seen.imports_unaddressed:
        told = f"{shown(seen.imports_unaddressed)}: no ClusterSetIP"
        todo = "enlarge clusterset.* of the agent; in a Kubernetes cluster, does its leader write? see its problems"
        yield error(Code.ADDRESSES, name, told, todo)
    elif status.imports:
        yield ok(Code.ADDRESSES, name, "every import that needs a ClusterSetIP has one")


def _dns(name: str, seen: pb.ExamineReply) -> Iterator[Finding]:
    for code, told, todo in (
        (Code.DNS, seen.dns if seen.HasField("dns") else None, "see the agent's log, and dns.* in its settings"),
        (
            Code.CLUSTER_DNS,
            seen.cluster_dns if seen.HasField("cluster_dns") else None,
            "does CoreDNS forward our zones to the agents? fedctl install dns --to ADDRESS; fedctl check --pre",
        ),
    ):
        if told is None:
            continue
        if told.code:
            yield error(code, name, f"{told.detail} [{told.code}]", todo)
        else:
            yield ok(code, name, f"{told.server}: {told.detail}")


def _links(facts: FederationFacts) -> Iterator[Finding]:
    good = [info for info in facts.links if info.state == "live"]
    for info in facts.links:
        if info.state != "live":
            subject = f"{info.link.a}/{info.link.b}"
            yield error(Code.LINKS, subject, info.detail or info.state, "see the findings of the two clusters")
    if good:
        yield ok(Code.LINKS, "registry", f"{len(good)} links are live")


def _names(facts: FederationFacts) -> Iterator[Finding]:
    """Two contexts that lead to one cluster, or two clusters that call themselves the same."""
    by_name: dict[str, list[AgentFacts]] = {}
    for agent in facts.agents:
        if agent.identity is not None:
            by_name.setdefault(agent.identity.cluster, []).append(agent)
            if agent.identity.cluster != agent.cluster:
                told = f"the agent behind the context {agent.cluster} is the one of {agent.identity.cluster}"
                todo = f"name it so: fedctl cluster use {agent.identity.cluster} DIR"
                yield error(Code.CLUSTER_NAME, agent.cluster, told, todo)
    for name, agents in by_name.items():
        if len({agent.identity.fingerprint for agent in agents if agent.identity is not None}) > 1:
            told = f"the contexts {shown(agent.cluster for agent in agents)} lead to different clusters of one name"
            yield error(Code.CLUSTER_NAME, name, told, "join one of them under another name")


def _pins(agents: Mapping[str, AgentFacts]) -> Iterator[Finding]:
    """Both ways: what one has pinned is what the other one has."""
    own = {name: agent.identity.fingerprint for name, agent in agents.items() if agent.identity is not None}
    for name, agent in agents.items():
        good = []
        for pin in agent.seen.pins if agent.seen is not None else ():
            subject, todo = f"{name} -> {pin.cluster}", f"fedctl link {name} {pin.cluster}"
            real = own.get(pin.cluster, "") or pin.shown
            if not pin.fingerprint:
                if pin.linked:
                    told = f"linked, and the root of {pin.cluster} is not pinned: nothing of it is believed"
                    yield error(Code.PINS, subject, told, todo)
            elif not pin.linked:
                told = f"the root of {pin.cluster} is pinned, and there is no link"
                yield warning(Code.PINS, subject, told, f"{todo}, or fedctl unlink {name} {pin.cluster}")
            elif real and real != pin.fingerprint:
                told = f"pinned is {_short(pin.fingerprint)}, and {pin.cluster} has {_short(real)}"
                again = f"if {pin.cluster} was made anew: fedctl unlink and fedctl link; otherwise somebody poses as it"
                yield error(Code.PINS, subject, told, again)
            else:
                good.append(pin.cluster)
        if good:
            yield ok(Code.PINS, name, f"the roots of {shown(good)} are pinned as they are")


def _short(fingerprint: str) -> str:
    return fingerprint[: len("sha256:") + 12] + "…"


@dataclass(frozen=True, slots=True)
class _Version:
    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> _Version | None:
        parts = text.split(".")
        try:
            return cls(int(parts[0]), int(parts[1]))
        except (ValueError, IndexError):
            return None


def _versions(facts: FederationFacts) -> Iterator[Finding]:
    """±1 minor between any two components."""
    found: dict[str, str] = {"fedctl": facts.version, **injectors(facts.clusters)}
    if facts.registry is not None and facts.registry.status is not None:
        found["registry"] = facts.registry.status.version
    for member in facts.registry.members or () if facts.registry is not None else ():
        if member.agent_version:
            found[f"the agent of {member.name}"] = member.agent_version
    for agent in facts.agents:
        if agent.status is not None:
            found[f"the agent of {agent.cluster}"] = agent.status.version
            for consumer in (one.consumer for one in agent.served):
                if consumer.version:
                    found[f"{agent.cluster}: {consumer.role} {consumer.name}"] = consumer.version
    yield versions(found)


def injectors(clusters: Iterable[KubeFacts]) -> dict[str, str]:
    """The versions of the webhooks: nobody but their API server knows them."""
    return {
        f"the injector of {facts.context or facts.server}": workload.version
        for facts in clusters
        for workload in facts.workloads or ()
        if workload.component == "injector" and workload.version
    }


def versions(found: Mapping[str, str]) -> Finding:
    """What the versions by component say about each other."""
    parsed = {who: version for who, text in found.items() if (version := _Version.parse(text)) is not None}
    distinct = sorted(set(parsed.values()), key=lambda v: (v.major, v.minor))
    texts = shown({f"{who} {text}" for who, text in found.items()}, most=6)
    if unknown := sorted(found.keys() - parsed.keys()):
        told = f"the version of {shown(unknown)} is not understood"
        return warning(Code.VERSIONS, "federation", told, "install a release")
    oldest, newest = distinct[0], distinct[-1]
    if oldest == newest:
        return ok(Code.VERSIONS, "federation", f"every component is of {newest.major}.{newest.minor}")
    if oldest.major == newest.major and newest.minor - oldest.minor <= 1:
        return ok(Code.VERSIONS, "federation", f"within one minor version: {texts}")
    todo = "upgrade the oldest first: components work together over one minor version"
    ends = [
        f"{end.major}.{end.minor} ({shown(who for who, version in parsed.items() if version == end)})"
        for end in (oldest, newest)
    ]
    told = f"{' and '.join(ends)} are too far apart"
    return error(Code.VERSIONS, "federation", told, todo)


def _flat(agents: Mapping[str, AgentFacts], facts: FederationFacts) -> dict[str, Sequence[str]]:
    """Pod ranges of linked clusters that say that they are on one network."""
    linked = {frozenset((info.link.a, info.link.b)) for info in facts.links}
    seen = {name: agent.seen for name, agent in agents.items() if agent.seen is not None and agent.seen.network}
    return {
        name: list(one.pod_ranges)
        for name, one in seen.items()
        if one.pod_ranges
        and any(
            other != name and two.network == one.network and frozenset((name, other)) in linked
            for other, two in seen.items()
        )
    }


def deployments(facts: KubeFacts) -> Iterator[Finding]:
    """Our workloads in a cluster."""
    where = facts.context or facts.server
    if facts.failure is not None or facts.workloads is None:
        return
    if not facts.workloads:
        todo = "install it (helm, or fedctl install), or name its namespace with --namespace"
        yield warning(Code.DEPLOYMENTS, where, f"nothing of isthmus runs in {facts.namespace}", todo)
    for workload in facts.workloads:
        subject = f"{where}: {workload.name}"
        if not workload.wanted:
            todo = f"kubectl -n {facts.namespace} scale {workload.kind.lower()}/{workload.name} --replicas 1"
            yield warning(Code.DEPLOYMENTS, subject, "it is scaled to nothing", todo)
        elif workload.ready < workload.wanted:
            told = f"{workload.ready} of {workload.wanted} are ready" + (
                f": {workload.reason}" if workload.reason else ""
            )
            todo = f"kubectl -n {facts.namespace} describe {workload.kind.lower()} {workload.name}; and its log"
            found = error if not workload.ready else warning
            yield found(Code.DEPLOYMENTS, subject, told, todo)
        else:
            yield ok(Code.DEPLOYMENTS, subject, f"{workload.ready} of {workload.wanted} are ready")


def injection(facts: KubeFacts) -> Iterator[Finding]:
    """Pods that went without the sidecar that they asked for: while no injector runs nobody else tells."""
    where = facts.context or facts.server
    if facts.failure is not None or facts.uninjected is None:
        return
    if facts.uninjected:
        told = f"pods that ask for a sidecar and have none: {len(facts.uninjected)}: {shown(facts.uninjected)}"
        todo = "is the injector ready? then create them anew: kubectl rollout restart"
        yield warning(Code.INJECTION, where, told, todo)
    else:
        yield ok(Code.INJECTION, where, "each pod that asks for a sidecar has one")
