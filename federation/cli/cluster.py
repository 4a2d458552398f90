"""fedctl cluster: joins a cluster to the federation, and takes it out again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from federation.cli.clients import agent, home_of, operator
from federation.cli.home import Place
from federation.cli.options import PodContextOption, PodKubeconfigOption, PodNamespaceOption, place_of
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, IsthmusError, NotFound, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE, parse_label
from federation.model.service import Locality

if TYPE_CHECKING:
    from discovery.consul.settings import ConsulSettings
    from discovery.departure import Departure
    from discovery.kube.settings import KubernetesSettings

app = typer.Typer(no_args_is_help=True, help="Members of the federation.")

KubeconfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The kubeconfig with which the agent reads and writes its cluster.")
]
ContextOption = Annotated[
    str, typer.Option("--context", metavar="NAME", help="Context in it; default: its current one.")
]
NamespaceOption = Annotated[
    str, typer.Option(help="Where agents keep what they share: Leases, pins, the cluster's identity.")
]
VmsOption = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Where virtual machines dial the agent to join; default: none may.",
        show_default=False,
    ),
]
DnsOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS:PORT",
        help="Where the agent answers global names for workloads without a sidecar; default: nowhere.",
        show_default=False,
    ),
]
InClusterOption = Annotated[bool, typer.Option("--in-cluster", help="The agent runs in a pod of the cluster.")]

_SHOWN = 10
"""Removed objects of one kind that are named in a table."""


def _kubernetes(
    kubeconfig: Path | None, context: str, in_cluster: bool, namespace: str = SYSTEM_NAMESPACE
) -> KubernetesSettings | None:
    from discovery.kube.settings import KubernetesSettings

    if kubeconfig is not None and in_cluster:
        raise InvalidInput("give --kubeconfig or --in-cluster, not both")
    if kubeconfig is None and not in_cluster:
        if context:
            raise InvalidInput("--context needs --kubeconfig")
        return None
    where = str(kubeconfig.expanduser()) if kubeconfig is not None else ""
    settings = KubernetesSettings(kubeconfig=where, context=context, namespace=namespace)
    settings.check()
    return settings


def _consul(address: str, datacenters: list[str], files: dict[str, Path | None]) -> ConsulSettings | None:
    from discovery.consul.settings import ConsulSettings

    given = [f"--consul-{name.replace('_', '-')}" for name, path in files.items() if path is not None]
    if not address:
        if datacenters or given:
            raise InvalidInput(f"{(given or ['--consul-datacenter'])[0]} needs --consul")
        return None
    named: dict[str, str] = {}
    for text in datacenters:
        datacenter, equals, namespace = text.partition("=")
        if not equals or datacenter in named:
            raise InvalidInput(
                f"--consul-datacenter {text[:80]!r} is not DATACENTER=NAMESPACE, each datacenter once",
                hint="for example --consul-datacenter dc1=shop",
            )
        named[datacenter] = namespace
    if not named:
        raise InvalidInput("--consul needs --consul-datacenter DATACENTER=NAMESPACE", hint="for example dc1=shop")
    paths = {name: str(path.expanduser()) for name, path in files.items() if path is not None}
    settings = ConsulSettings(address=address, datacenters=named, **paths)  # type: ignore[arg-type]
    settings.check()
    return settings


@app.command(
    "join",
    epilog="Example: fedctl cluster join east --token TOKEN --directory ./east --manifests ./east/manifests; "
    "or, for a cluster of Kubernetes: "
    "fedctl cluster join east --token TOKEN --directory ./east --kubeconfig ~/.kube/config --context east; "
    "or, for a datacenter of Consul: fedctl cluster join dc1 --token TOKEN --directory ./dc1 "
    "--consul http://127.0.0.1:8500 --consul-token-file ./token --consul-datacenter dc1=shop",
)
def join(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name, as in the token.")],
    token: Annotated[str, typer.Option(help="From `fedctl token issue CLUSTER`.")],
    directory: Annotated[Path, typer.Option(help="The state folder of the cluster's agent; it must be new.")],
    manifests: Annotated[Path | None, typer.Option(help="The folder of manifests that describes the cluster.")] = None,
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = "",
    in_cluster: InClusterOption = False,
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    consul: Annotated[
        str, typer.Option("--consul", metavar="URL", help="The Consul that has its services, as http://127.0.0.1:8500.")
    ] = "",
    consul_datacenter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATACENTER=NAMESPACE", help="A datacenter, and the namespace of its services; repeatable."
        ),
    ] = None,
    consul_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the ACL token with which the agent reads Consul.")
    ] = None,
    consul_ca_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Whom to trust (PEM).")] = None,
    consul_cert_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The agent's certificate for Consul (PEM).")
    ] = None,
    consul_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key (PEM).")] = None,
    consul_rules: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The rules by which services are exported; `fedctl export` writes it."),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the agent serves its gateways and sidecars.")
    ] = "127.0.0.1:7445",
    vms: VmsOption = "",
    dns: DnsOption = "",
    region: Annotated[str, typer.Option(help="Region of the cluster.")] = "",
    zone: Annotated[str, typer.Option(help="Zone of the cluster.")] = "",
    metrics: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where /metrics is.")] = "127.0.0.1:0",
    user: Annotated[
        str, typer.Option(metavar="NAME", help="Whose processes are its gateway and workloads.", show_default="yours")
    ] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Join a cluster: make its own root, redeem the token, write the agent's settings."""
    from discovery.join import join as redeem
    from discovery.join import processes_of

    parse_label(name, what="cluster")
    kubernetes = _kubernetes(kubeconfig, kube_context, in_cluster, namespace)
    files = {
        "token_file": consul_token_file,
        "ca_file": consul_ca_file,
        "cert_file": consul_cert_file,
        "key_file": consul_key_file,
        "rules": consul_rules,
    }
    catalog = _consul(consul, consul_datacenter or [], files)
    if sum(source is not None for source in (manifests, kubernetes, catalog)) != 1:
        raise InvalidInput(
            "say where the cluster's services are: --manifests FOLDER, --kubeconfig FILE (or --in-cluster), "
            "or --consul URL"
        )
    joined = asyncio.run(
        redeem(
            directory,
            token=token,
            cluster=name,
            manifests=manifests,
            kubernetes=kubernetes,
            consul=catalog,
            listen=listen,
            vms=vms,
            dns=dns,
            locality=Locality(region, zone),
            metrics=metrics,
            identities=processes_of(user) if user else None,
        )
    )
    home_of(context).update(lambda home: home.with_cluster(name, directory))
    printer = Printer(output)
    printer.item(
        {"cluster": name, "trust_domain": joined.trust_domain, "fingerprint": joined.fingerprint},
        line=f"{name} joined as {joined.trust_domain}, root {joined.fingerprint}",
    )
    printer.note(f"start its agent with: isthmus-agent --settings {directory / 'settings.yaml'}")


@app.command(
    "replica", epilog="Example: fedctl cluster replica ./east-2 --kubeconfig ~/.kube/config --listen 10.0.0.2:7445"
)
def replica(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The state folder of the new agent; it must be new.")
    ],
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = "",
    in_cluster: InClusterOption = False,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the agent serves its gateways and sidecars.")
    ] = "127.0.0.1:7445",
    advertise: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="How they dial it, where that differs, as a Service."),
    ] = "",
    vms: VmsOption = "",
    dns: DnsOption = "",
    metrics: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where /metrics is.")] = "127.0.0.1:0",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make another agent of a Kubernetes cluster that has joined: both serve, and one of them writes."""
    from discovery.join import replicate

    kubernetes = _kubernetes(kubeconfig, kube_context, in_cluster, namespace)
    if kubernetes is None:
        raise InvalidInput("say where the cluster's identity is: --kubeconfig FILE, or --in-cluster in a pod")
    made = asyncio.run(
        replicate(
            directory, kubernetes=kubernetes, listen=listen, advertise=advertise, vms=vms, dns=dns, metrics=metrics
        )
    )
    printer = Printer(output)
    printer.item(
        {"cluster": made.cluster, "trust_domain": made.trust_domain, "fingerprint": made.fingerprint},
        line=f"{directory} is another agent of {made.cluster}, root {made.fingerprint}",
    )
    printer.note(f"start it with: isthmus-agent --settings {directory / 'settings.yaml'}")


@app.command("leave", epilog="Example: fedctl cluster leave east --kubeconfig ~/.kube/config --context east --dry-run")
def leave(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CLUSTER")],
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Kubeconfig that may remove what is ours from the cluster; default: its agent's."
        ),
    ] = None,
    kube_context: ContextOption = "",
    keep_imports: Annotated[
        bool, typer.Option("--keep-imports", help="Leave ServiceImports, derived Services and EndpointSlices there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed from the cluster; nothing is changed.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take a cluster out of the federation: its links, its exports and the trust in it end everywhere.

    What its agents wrote in a Kubernetes cluster and in Consul is removed, whether they run or not. Safe to repeat.
    """
    parse_label(name, what="cluster")
    home = home_of(context)
    where = home.cluster(name) if dry_run else home.clusters.get(name)
    other = _kubernetes(kubeconfig, kube_context, False)

    async def ask() -> Departure:
        if not dry_run:
            async with operator(home) as registry:
                try:
                    await registry.leave(name)
                except NotFound:
                    if where is None:
                        raise
        return await _retire(where, other, keep_imports=keep_imports, dry_run=dry_run)

    departed = asyncio.run(ask())
    failed = [{"what": f.what, **f.error.as_dict()} for f in departed.failed]
    printer = Printer(output)
    found = {"cluster": name, "left": not dry_run, "removed": list(departed.removed)}
    line = f"{name} would leave the federation" if dry_run else f"{name} left the federation"
    printer.item({**found, "kept": list(departed.kept), "failed": failed}, line=line)
    verb = "would be removed" if dry_run else "removed"
    for what in _short(departed.removed):
        printer.note(f"{verb} from the cluster: {what}")
    for what in departed.kept:
        printer.note(f"kept, for others may use it: {what}")
    if dry_run:
        printer.note("nothing was changed")
    if departed.failed:
        first = departed.failed[0]
        raise Unavailable(
            ("" if dry_run else f"{name} left the federation, and its cluster may still hold what is ours: ")
            + f"{first.what}: {first.error.message}",
            hint=f"with an administrator's rights: fedctl cluster leave {name} --kubeconfig FILE --context NAME",
            code="not_removed",
        )
    if not dry_run:
        home.update(lambda now: now.without_cluster(name))


async def _retire(
    where: Path | Place | None, other: KubernetesSettings | None, *, keep_imports: bool, dry_run: bool
) -> Departure:
    from discovery.departure import Departure, Failure, retire
    from discovery.join import replicate
    from discovery.kube.settings import KubernetesSettings
    from discovery.settings import SETTINGS_FILE, load

    try:
        if isinstance(where, Place):
            # Its agents have their state in pods: what is needed of it is in the API server.
            there = KubernetesSettings(kubeconfig=where.kubeconfig, context=where.context, namespace=where.namespace)
            with tempfile.TemporaryDirectory(prefix="isthmus-") as folder:
                state = Path(folder) / "state"
                try:
                    await replicate(state, kubernetes=there)
                except NotFound:
                    return Departure()  # it has been removed already
                return await retire(load(state / SETTINGS_FILE), other, keep_imports=keep_imports, dry_run=dry_run)
        if where is None or not await asyncio.to_thread((where / SETTINGS_FILE).exists):
            return Departure()
        return await retire(load(where / SETTINGS_FILE), other, keep_imports=keep_imports, dry_run=dry_run)
    except IsthmusError as error:
        return Departure(failed=(Failure(what="its API server", error=error),))


def _short(removed: Sequence[str]) -> Iterator[str]:
    """Of each kind the first few: an agent may have written thousands."""
    kinds: dict[str, list[str]] = {}
    for what in removed:
        kinds.setdefault(what.rpartition(" ")[0], []).append(what)
    for kind, found in kinds.items():
        yield from found[:_SHOWN]
        if len(found) > _SHOWN:
            yield f"{len(found) - _SHOWN} more of {kind} (all of them: -o json)"


@app.command(
    "use", epilog="Examples: fedctl cluster use east /var/lib/isthmus/east; fedctl cluster use west --context kind-b"
)
def use(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CLUSTER")],
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The state folder of its agent on this machine.", show_default=False),
    ] = None,
    kube_context: PodContextOption = "",
    kubeconfig: PodKubeconfigOption = None,
    namespace: PodNamespaceOption = SYSTEM_NAMESPACE,
    output: OutputOption = Format.TABLE,
) -> None:
    """Tell fedctl where the agent of a cluster is: its state on this machine, or its pods in a cluster."""
    parse_label(name, what="cluster")
    home, printer = home_of(context), Printer(output)
    place = place_of(kube_context, kubeconfig, namespace)
    if directory is not None:
        if kube_context or kubeconfig:
            raise InvalidInput("give DIR, or --context for an agent in a pod, not both")
        if not directory.is_dir():
            raise NotFound(f"there is no folder {directory}", hint="give the state folder of the cluster's agent")
        home.update(lambda now: now.with_cluster(name, directory))
        printer.item({"cluster": name, "directory": str(directory)}, line=f"{name} is in {directory}")
        return
    if place is None:
        raise InvalidInput("say where its agent is: DIR of its state, or --context NAME for one in a pod")
    from federation.cli.pods import check_context

    check_context(place)
    told = home.with_cluster(name, place)

    async def ask() -> str:
        async with agent(told, name) as client:
            return (await client.identity()).cluster

    try:
        found = asyncio.run(ask())
    except Unavailable as error:  # it may have yet to join
        printer.note(f"its agent does not answer yet: {error}")
    else:
        if found != name:
            raise InvalidInput(
                f"the cluster in {place} is {found}, not {name}", hint=f"run: fedctl cluster use {found} …"
            )
    home.update(lambda now: now.with_cluster(name, place))
    printer.item({"cluster": name, **msgspec.to_builtins(place)}, line=f"{name} is in {place}")
