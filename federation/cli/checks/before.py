"""Findings before the installation: the API server, this machine, the registry. Pure, from facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from discovery.kube import corefile
from federation.cli.checks.facts import HostFacts, KubeFacts, RegistryFacts
from federation.cli.checks.finding import Code, Finding, error, ok, shown, warning
from federation.errors import AlreadyExists, IsthmusError
from federation.model.address import overlaps

OLDEST_API = (1, 30)
OLDEST_KERNEL = (5, 4)
SKEW_WARNING, SKEW_ERROR = 2.0, 60.0
"""Seconds. Certificates are valid from five minutes before they are made; leases and tokens are compared by clocks."""
SOON_NS = 14 * 86_400 * 1_000_000_000
"""A certificate that nobody renews is told of so long before its end."""
_DAY_NS = 86_400 * 1_000_000_000
_NO_NET_ADMIN = ("baseline", "restricted")


def kubernetes(facts: KubeFacts, *, now_ns: int) -> Iterator[Finding]:
    """Of one API server."""
    where = facts.context or facts.server
    if facts.failure is not None:
        yield _failed(
            Code.API_SERVER, where, facts.failure, "check the kubeconfig, its context and the way to the server"
        )
        return
    yield ok(Code.API_SERVER, where, f"{facts.server} answers")
    yield from _version(facts, where)
    yield from _rights(facts, where)
    yield from _crds(facts, where)
    yield from _pod_security(facts, where)
    yield from _coredns(facts, where)
    yield from _native_sidecars(facts, where)
    yield from webhooks(facts, now_ns=now_ns)


def _version(facts: KubeFacts, where: str) -> Iterator[Finding]:
    if facts.version is None:
        yield warning(
            Code.API_VERSION, where, f"the version {facts.version_text!r} is not understood", "1.30 is needed"
        )
    elif facts.version < OLDEST_API:
        told = f"Kubernetes {facts.version_text} is too old"
        yield error(Code.API_VERSION, where, told, "upgrade the cluster to 1.30 or newer")
    else:
        yield ok(Code.API_VERSION, where, f"Kubernetes {facts.version_text}")


def _rights(facts: KubeFacts, where: str) -> Iterator[Finding]:
    missing = [right for right in facts.rights if not right.allowed]
    if missing:
        yield error(
            Code.RIGHTS,
            where,
            f"{len(missing)} of {len(facts.rights)} rights are missing: {shown(map(str, missing))}",
            "install as an administrator (cluster-admin), or have the role extended by these",
        )
    elif facts.rights:
        yield ok(Code.RIGHTS, where, f"all {len(facts.rights)} rights that an installation needs are there")


def _crds(facts: KubeFacts, where: str) -> Iterator[Finding]:
    if facts.crds is None:
        yield warning(Code.CRDS, where, "CustomResourceDefinitions cannot be read", "ask with more rights")
        return
    absent = [crd.name for crd in facts.crds if crd.served is None]
    foreign = [crd for crd in facts.crds if crd.served is not None and not set(crd.served) & set(crd.wanted)]
    for crd in foreign:
        yield error(
            Code.CRDS,
            f"{where}: {crd.name}",
            f"it serves {', '.join(crd.served or ()) or 'no version'}, and {' or '.join(crd.wanted)} is needed",
            "another implementation installed it: upgrade that one, or remove the definition if nobody uses it",
        )
    if absent:
        yield warning(
            Code.CRDS, where, f"not there yet: {shown(absent)}", "the installation brings them: fedctl install crds"
        )
    if not absent and not foreign:
        others = [crd.name for crd in facts.crds if not crd.ours]
        told = f"all {len(facts.crds)} are served" + (f", {len(others)} installed by others" if others else "")
        yield ok(Code.CRDS, where, told)


def _pod_security(facts: KubeFacts, where: str) -> Iterator[Finding]:
    """Our own pods keep to `restricted`. What redirects in a workload's pod needs NET_ADMIN once."""
    tight = [n for n, level in facts.pod_security.items() if n != facts.namespace and level in _NO_NET_ADMIN]
    if tight:
        yield warning(
            Code.POD_SECURITY,
            where,
            f"{shown(tight)}: the pods get a sidecar by the loopback way: the namespace lets none redirect (NET_ADMIN)",
            "nothing, if the loopback way will do; else lower the level of the namespace to privileged",
        )
    else:
        level = facts.pod_security.get(facts.namespace, "")
        there = f"enforces {level}" if level else "enforces none" if facts.namespace_there else "does not exist yet"
        yield ok(Code.POD_SECURITY, where, f"{facts.namespace} {there}; our pods keep to restricted")


def _coredns(facts: KubeFacts, where: str) -> Iterator[Finding]:
    if facts.corefile is None:
        yield warning(
            Code.COREDNS,
            where,
            facts.corefile_missing or "no Corefile was found",
            "name its ConfigMap with --configmap, or let the cluster's DNS forward our zones by hand (docs/dns.md)",
        )
        return
    try:
        reloads = corefile.reloads(facts.corefile)
        taken = _taken(facts)
    except IsthmusError as failure:
        yield _failed(Code.COREDNS, where, failure, "write a server block for our zones by hand")
        return
    if reloads:
        yield ok(Code.COREDNS, where, "its Corefile has `reload`")
    else:
        told = "its Corefile has no `reload`: changes take effect at a restart"
        yield warning(Code.COREDNS, where, told, "add `reload`, or restart CoreDNS after `fedctl install dns`")
    if taken:
        yield error(Code.STUB_DOMAIN, where, taken, "take out what serves this zone, or choose another suffix")
    elif corefile.present(facts.corefile):
        yield ok(Code.STUB_DOMAIN, where, f"clusterset.local and {facts.suffix} are forwarded to the agents")
    else:
        told = f"pods do not find clusterset.local and {facts.suffix} yet"
        yield warning(Code.STUB_DOMAIN, where, told, "fedctl install dns --to ADDRESS of the agents' DNS")


def _taken(facts: KubeFacts) -> str:
    """Why our zones cannot be put there; empty where they can."""
    zones = ("clusterset.local", facts.suffix)
    try:
        corefile.check(facts.corefile or "", zones)
    except IsthmusError as failure:
        if failure.error_code == "zone_taken":
            return failure.message
        raise
    return ""


def _native_sidecars(facts: KubeFacts, where: str) -> Iterator[Finding]:
    if facts.native_sidecars is None:
        told = facts.native_sidecars_detail or "it was not tried"
        yield warning(
            Code.NATIVE_SIDECARS, where, f"whether there are native sidecars is not known: {told}", "see there"
        )
    elif facts.native_sidecars:
        yield ok(Code.NATIVE_SIDECARS, where, "init containers may have restartPolicy Always")
    else:
        yield error(
            Code.NATIVE_SIDECARS,
            where,
            "the API server drops restartPolicy of init containers: there are no native sidecars",
            "switch the feature gate SidecarContainers on (it is by default since 1.29), or inject nowhere",
        )


def webhooks(facts: KubeFacts, *, now_ns: int) -> Iterator[Finding]:
    """The certificates by which the API server knows our webhooks."""
    where = facts.context or facts.server
    if facts.webhooks is None:
        return
    for hook in facts.webhooks:
        subject = f"{where}: {hook.name}"
        if hook.not_after_ns is None:
            told = "it has no certificate (caBundle) by which the API server could know it"
            yield error(Code.WEBHOOK, subject, told, "is the injector running? it writes it: fedctl install webhook")
        elif hook.not_after_ns <= now_ns:
            effect = "no pod is admitted" if hook.failure_policy == "Fail" else "pods start without a sidecar"
            told = f"its certificate expired {span(now_ns - hook.not_after_ns)} ago: {effect}"
            yield error(Code.WEBHOOK, subject, told, "restart the injector, which renews it, and see its log")
        elif hook.not_after_ns - now_ns < _DAY_NS // 24:
            told = f"its certificate ends in {span(hook.not_after_ns - now_ns)}, and was not renewed"
            yield warning(Code.WEBHOOK, subject, told, "see the injector's log")
        else:
            yield ok(Code.WEBHOOK, subject, f"its certificate is good for {span(hook.not_after_ns - now_ns)}")


def cluster_name(facts: KubeFacts, wanted: str) -> Iterator[Finding]:
    """That the API server does not call its cluster otherwise already."""
    if facts.failure is None and wanted and facts.cluster_name not in ("", wanted):
        yield error(
            Code.CLUSTER_NAME,
            facts.context or facts.server,
            f"the cluster is called {facts.cluster_name} already (ClusterProperty cluster.clusterset.k8s.io)",
            f"join it as {facts.cluster_name}, or remove the ClusterProperty if nobody uses it",
        )


def ranges(found: Mapping[str, Sequence[str]], *, flat: bool) -> Iterator[Finding]:
    """Overlaps of the pods' ranges, by cluster. Behind gateways they do not matter; on one flat network they do."""
    clashes = [
        (a, x, b, y) for (a, of_a), (b, of_b) in combinations(sorted(found.items()), 2) for x, y in overlaps(of_a, of_b)
    ]
    for a, x, b, y in clashes if flat else ():
        yield error(
            Code.RANGES,
            f"{a}, {b}",
            f"pods of {a} ({x}) and of {b} ({y}) have the same addresses on one flat network",
            "give the clusters different pod ranges, or take `network` out of the settings of one of them",
        )
    if not clashes and len(found) > 1:
        yield ok(Code.RANGES, ", ".join(sorted(found)), "no pod ranges overlap")
    elif clashes and not flat:
        told = "pod ranges overlap, which does not matter: the clusters reach each other by gateways"
        yield ok(Code.RANGES, ", ".join(sorted({n for a, _, b, _ in clashes for n in (a, b)})), told)


def host(facts: HostFacts) -> Iterator[Finding]:
    """Of this machine, as a plain host."""
    parts = facts.release.split(".")
    try:
        version = (int(parts[0]), int(parts[1].partition("-")[0]))
    except (ValueError, IndexError):
        version = None
    if facts.system != "Linux":
        yield error(Code.KERNEL, facts.system, "only Linux is supported", "run the processes on Linux")
    elif version is None or version < OLDEST_KERNEL:
        told = f"Linux {facts.release} is older than 5.4, with which nobody has tried this"
        yield warning(Code.KERNEL, facts.release, told, "use a newer kernel")
    else:
        yield ok(Code.KERNEL, facts.release, f"Linux {facts.release}")
    if problem := facts.nft or facts.ip:
        told = f"calls cannot be redirected to a sidecar here: {problem}"
        yield warning(
            Code.NFTABLES, "nft", told, "install nftables and iproute2, or use the loopback way (docs/vms.md)"
        )
    else:
        yield ok(Code.NFTABLES, "nft", "nftables can be used")
    for port in facts.ports:
        if port.problem:
            told = f"{port.what} cannot listen on {port.address}: {port.problem}"
            yield error(
                Code.PORTS, port.address, told, "end what uses it (ss -lntup), or choose another in the settings"
            )
        else:
            yield ok(Code.PORTS, port.address, f"free for {port.what}")


def registry(facts: RegistryFacts) -> Iterator[Finding]:
    """The registry from here, the token for it, and the two clocks."""
    if facts.failure is not None:
        todo = "is it running, and does a firewall or a proxy stand between? from here: TCP to this address"
        yield _failed(Code.REGISTRY, facts.address, facts.failure, todo)
        return
    by = (
        "its root is the one that is pinned" if facts.pinned else "nothing here pins its root: give --token to check it"
    )
    yield ok(Code.REGISTRY, facts.address, f"TCP and TLS are good; {by}")
    yield from _token(facts)
    yield from _clock(facts)


def _token(facts: RegistryFacts) -> Iterator[Finding]:
    if isinstance(facts.token_failure, AlreadyExists):
        yield _failed(
            Code.CLUSTER_NAME, facts.token_cluster, facts.token_failure, "choose another name: fedctl token issue NAME"
        )
    elif facts.token_failure is not None:
        todo = f"ask the operator for a new one: fedctl token issue {facts.token_cluster}"
        yield _failed(Code.TOKEN, facts.token_cluster, facts.token_failure, todo)
    elif facts.token is not None:
        left = facts.token.expires_ns - facts.token.now_ns
        yield ok(Code.TOKEN, facts.token_cluster, f"the token is good for {span(left)}")


def token_for(facts: RegistryFacts, wanted: str) -> Iterator[Finding]:
    """That a token is for the name that the cluster shall have."""
    if wanted and facts.token_cluster not in ("", wanted):
        told = f"the token is for the cluster {facts.token_cluster}, not for {wanted}"
        yield error(Code.TOKEN, wanted, told, f"fedctl token issue {wanted}")


def _clock(facts: RegistryFacts) -> Iterator[Finding]:
    if facts.clock_ns is None:
        return
    there, here = facts.clock_ns
    yield clock("the registry", there, here)


def clock(who: str, there_ns: int, here_ns: int) -> Finding:
    """How far the clock of `who` is from ours."""
    skew = (there_ns - here_ns) / 1e9
    told = f"the clock of {who} is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    todo = "synchronise both clocks (NTP)"
    if abs(skew) >= SKEW_ERROR:
        return error(Code.CLOCK, who, told, todo)
    if abs(skew) >= SKEW_WARNING:
        return warning(Code.CLOCK, who, told, todo)
    return ok(Code.CLOCK, who, f"the clock of {who} agrees with this machine's to {max(abs(skew), 0.1):.1f} s")


def name_free(facts: RegistryFacts, wanted: str) -> Iterator[Finding]:
    """That no member has the name, as an operator sees it."""
    if facts.members is None or not wanted:
        return
    if any(member.name == wanted for member in facts.members):
        told = f"the federation has a cluster {wanted} already"
        todo = f"choose another name; or, if it is this one made anew: fedctl cluster leave {wanted}"
        yield error(Code.CLUSTER_NAME, wanted, told, todo)
    else:
        yield ok(Code.CLUSTER_NAME, wanted, "no other member has this name")


def _failed(code: Code, subject: str, failure: IsthmusError, todo: str) -> Finding:
    return error(code, subject, failure.message, failure.hint or todo)


def span(ns: int) -> str:
    """How long that is, in the largest unit that says enough."""
    seconds = max(0, ns) // 1_000_000_000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
