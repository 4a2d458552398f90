"""fedctl check: what would keep isthmus from working here, before it is installed and after.

Facts are gathered (federation.cli.checks.kube, host, registry, agents), findings are made of them (before, after), and
each finding has a stable code, what to do, and a paragraph of docs/checks.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.clients import home_of
from federation.cli.home import Home
from federation.cli.kubeconfig import KubeconfigOption, kubeconfig_or_default
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, NotFound, TimedOut, Unavailable
from federation.model.address import split_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_domain, parse_label

if TYPE_CHECKING:
    from federation.cli.checks.facts import KubeFacts, RegistryFacts
    from federation.cli.checks.finding import Finding

_MARKS = {"ok": "✓", "warning": "!", "error": "✗"}
_PAUSE = 1.0
"""Seconds between two looks of --wait."""

Look = Callable[[], Awaitable[Sequence["Finding"]]]


def check(
    context: typer.Context,
    pre: Annotated[bool, typer.Option("--pre", help="Before the installation: could it be installed here?")] = False,
    kubeconfig: KubeconfigOption = None,
    kube_context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="NAME", help="Context in the kubeconfig: look at this cluster; repeatable."),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Where isthmus runs, or shall run.")] = SYSTEM_NAMESPACE,
    configmap: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME", help="Where the Corefile of the cluster's CoreDNS is.")
    ] = "kube-system/coredns",
    suffix: Annotated[str, typer.Option(help="As in the settings of the agents.")] = "global",
    cluster: Annotated[str, typer.Option(help="With --pre: the name that the cluster shall have.")] = "",
    token: Annotated[str, typer.Option(help="With --pre: a join token, which is checked and not redeemed.")] = "",
    registry: Annotated[str, typer.Option(metavar="HOST:PORT", help="With --pre: the registry's enrolment port.")] = "",
    flat: Annotated[bool, typer.Option("--flat", help="With --pre: the clusters share one flat network.")] = False,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="With --pre on a plain host: a port that has to be free; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Look again until there are no errors.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for each thing that is asked; with --wait for all.")] = 5.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Find what keeps isthmus from working. Exit status 0 without errors, 6 with, 11 if --wait ran out of time.

    With --pre: an API server (--context), or else this machine as a plain host, and the registry. Without: the
    federation as its registry and the agents known here see it, and with --context what runs in the cluster.
    """
    home = home_of(context)
    parse_label(namespace, what="--namespace")
    parse_domain(suffix, what="--suffix")
    if configmap.count("/") != 1 or not all(configmap.split("/")):
        raise InvalidInput(f"--configmap {configmap} is not NAMESPACE/NAME")
    if not timeout > 0:
        raise InvalidInput(f"--timeout {timeout:g} is not above 0 seconds")
    if cluster:
        parse_label(cluster, what="--cluster")
    early = {"--cluster": cluster, "--token": token, "--registry": registry, "--flat": flat, "--listen": listen}
    if not pre and (given := [name for name, value in early.items() if value]):
        raise InvalidInput(f"{given[0]} is for a look before the installation", hint="add --pre")
    if token and registry:
        raise InvalidInput("give --token or --registry, not both: the token names its registry")
    for text in (*(listen or ()), *((registry,) if registry else ())):
        split_address(text, what="--listen" if text != registry else "--registry", zero=False)
    source = context.get_parameter_source("kubeconfig")
    named = source is not None and source.name == "COMMANDLINE"  # KUBECONFIG alone is no wish to look there
    contexts = list(dict.fromkeys(kube_context)) if kube_context else [""] if named else []
    kube = _Kube(contexts, kubeconfig, namespace, configmap, suffix)
    patience = min(timeout, 5.0) if wait else timeout

    async def look_before() -> Sequence[Finding]:
        return await _before(home, kube, cluster, token, registry, flat=flat, listen=listen or (), timeout=patience)

    async def look_after() -> Sequence[Finding]:
        return await _after(home, kube, timeout=patience)

    found = asyncio.run(_settle(look_before if pre else look_after, timeout if wait else 0.0))
    show(Printer(output), found)
    errors = [finding for finding in found if finding.level == "error"]
    if errors and wait:
        raise TimedOut(f"errors after {timeout:g} s: {errors[0].subject}: {errors[0].detail}")
    if errors:
        raise Unavailable(f"{len(errors)} error(s)", code="check_failed", hint=f"begin with {errors[0].code.anchor}")


def show(printer: Printer, found: Sequence[Finding]) -> None:
    """One line each, and what to do below what is not well; or all of it as data."""
    from federation.cli.checks.finding import worst

    if printer.format is not Format.TABLE:
        findings = [finding.as_dict() for finding in found]
        printer.item({"level": worst(found).value, "findings": findings}, line="")
        return
    for finding in found:
        print(f"{_MARKS[finding.level]} {finding.code}: {finding.subject}: {finding.detail}")
        if finding.next:
            print(f"    next: {finding.next}")
            print(f"    see: {finding.code.anchor}")
    counts = {level: sum(finding.level == level for finding in found) for level in _MARKS}
    print(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['error']} errors")


class _Kube:
    """The API servers that were named, as they are looked at."""

    def __init__(
        self, contexts: Sequence[str], kubeconfig: Path | None, namespace: str, configmap: str, suffix: str
    ) -> None:
        self.contexts, self._kubeconfig = contexts, str(kubeconfig_or_default(kubeconfig))
        self._namespace, self._configmap, self._suffix = namespace, configmap, suffix

    async def look(self, *, rights: bool) -> list[KubeFacts]:
        from federation.cli.checks import kube

        where = [
            kube.Look(
                kubeconfig=self._kubeconfig,
                context=name,
                namespace=self._namespace,
                configmap=self._configmap,
                suffix=self._suffix,
            )
            for name in self.contexts
        ]
        return list(await asyncio.gather(*(kube.look(one, rights=rights) for one in where)))


async def _before(
    home: Home,
    kube: _Kube,
    cluster: str,
    token: str,
    registry: str,
    *,
    flat: bool,
    listen: Sequence[str],
    timeout: float,
) -> Sequence[Finding]:
    from federation.cli.checks import before, host
    from federation.cli.checks import registry as registries

    found: list[Finding] = []
    facts = await kube.look(rights=True)
    now_ns = time.time_ns()
    for one in facts:
        found += before.kubernetes(one, now_ns=now_ns)
        found += before.cluster_name(one, cluster)
    if len(facts) > 1:
        found += before.ranges({f.context: f.pod_ranges or () for f in facts if f.failure is None}, flat=flat)
    if not facts:
        ports = [("--listen", text, "udp" if text.endswith(":53") else "tcp") for text in listen]
        found += before.host(await asyncio.to_thread(host.look, ports or host.DEFAULT_PORTS))
    seen: list[RegistryFacts] = []
    if token:
        seen.append(await registries.by_token(token, timeout=timeout))
    if registry:
        seen.append(await registries.by_address(registry, timeout=timeout))
    told = await registries.by_operator(home, timeout=timeout)
    if told is not None and (not seen or told.failure is None):
        seen.append(told)
    for each in seen:
        found += before.registry(each)
        found += before.name_free(each, cluster)
        found += before.token_for(each, cluster)
    return found


async def _after(home: Home, kube: _Kube, *, timeout: float) -> Sequence[Finding]:
    from federation.cli.checks import after, agents, before

    if not home.clusters and home.operator is None and not kube.contexts:
        raise NotFound(
            "neither a registry nor an agent is known here",
            code="no_registry",
            hint="fedctl registry use DIR and fedctl cluster use CLUSTER DIR; --pre before the installation",
        )
    facts, clusters = await asyncio.gather(agents.look(home, timeout=timeout), kube.look(rights=False))
    facts = replace(facts, clusters=clusters)
    found = list(after.federation(facts)) if home.clusters or home.operator is not None else []
    if not found and (known := after.injectors(clusters)):
        found = [after.versions({"fedctl": facts.version, **known})]
    now_ns = time.time_ns()
    for one in clusters:
        found += before.kubernetes(one, now_ns=now_ns)
        found += after.deployments(one)
        found += after.injection(one)
    return found


async def _settle(look: Look, seconds: float) -> Sequence[Finding]:
    """What is found; with `seconds` the first look without errors, or the last one."""
    deadline = time.monotonic() + seconds
    while True:
        found = await look()
        if all(finding.level != "error" for finding in found) or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(min(_PAUSE, max(0.0, deadline - time.monotonic())))


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "check",
        epilog="Examples: fedctl check; fedctl check --pre --context east --cluster east --token TOKEN; "
        "fedctl check --context east --wait --timeout 120 -o json",
    )(check)
