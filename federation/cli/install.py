"""fedctl install: what a Kubernetes cluster needs before its agent starts, and units for processes on plain hosts."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli.kubeconfig import ContextOption, KubeconfigOption, with_client
from federation.cli.output import Format, OutputOption, Printer
from federation.cli.processes import PROCESSES, process_of
from federation.cli.vm_host import KeepOption, ProgramsOption, ReplaceOption, RootOption, beside, show
from federation.dns.upstream import parse_server
from federation.errors import InvalidInput, NotFound
from federation.model.address import join_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_domain, parse_label

if TYPE_CHECKING:
    from discovery.kube.client import KubeClient

AGENT_SERVICE = "isthmus-agent"
"""Service before the agents of a cluster, in the chart."""

app = typer.Typer(no_args_is_help=True, help="What a Kubernetes cluster or a plain host needs of isthmus.")

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the manifests, and do nothing.")]


@app.command("crds", epilog="Example: fedctl install crds --kubeconfig ~/.kube/config --context east")
def crds(
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install ServiceExport, ServiceImport and ClusterProperty. Those that are there already are kept."""
    from discovery.kube.crds import manifests

    _install(manifests(), kubeconfig, context, dry_run, output)


@app.command("rbac", epilog="Example: fedctl install rbac --dry-run | less")
def rbac(
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: Annotated[
        str, typer.Option(help="Where the agent runs, as kubernetes.namespace in its settings.")
    ] = SYSTEM_NAMESPACE,
    create_namespaces: Annotated[
        bool, typer.Option("--create-namespaces", help="The agent may create the namespaces of imports.")
    ] = False,
    in_pod: Annotated[
        bool, typer.Option("--in-pod", help="The agent runs in a pod and joins by itself: it writes its identity.")
    ] = False,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install the agent's namespace, its service account and the rules that it needs, each with its reason."""
    from discovery.kube.rbac import manifests

    parse_label(namespace, what="namespace")
    wanted = manifests(namespace=namespace, create_namespaces=create_namespaces, in_pod=in_pod)
    _install(wanted, kubeconfig, context, dry_run, output)


@app.command(
    "dns",
    epilog="Examples: fedctl install dns --context east --dry-run; fedctl install dns --to 10.96.0.53; "
    "fedctl install dns --undo --context east",
)
def dns(
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS[:PORT]",
            show_default="Service isthmus-agent",
            help="dns.listen of the cluster's agents as pods reach it; repeatable.",
        ),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where isthmus is.")] = SYSTEM_NAMESPACE,
    suffix: Annotated[str, typer.Option(help="As in the settings of the agents.")] = "global",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    configmap: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME", help="Where the Corefile of the cluster's CoreDNS is.")
    ] = "kube-system/coredns",
    undo: Annotated[bool, typer.Option("--undo", help="Take the stub domain out again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and do nothing.")] = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--no-restart",
            help="Restart CoreDNS pod by pod, and wait until every one serves it; otherwise each takes it up by "
            "itself, within minutes.",
        ),
    ] = True,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds to wait for CoreDNS.")] = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let the cluster's CoreDNS ask the agents for clusterset.local and the global names."""
    from discovery.kube import corefile, stubdomain
    from federation.aio.clock import SystemClock
    from federation.cli.installation import nameservers
    from federation.cli.installation.work import Worker

    parse_domain(suffix, what="--suffix")
    place, slash, name = configmap.partition("/")
    if not slash or not place or not name or "/" in name:
        raise InvalidInput(f"--configmap {configmap} is not NAMESPACE/NAME")
    if undo and to:
        raise InvalidInput("give --to ADDRESS[:PORT] of the agent's DNS, or --undo", hint="see dns.listen in docs")
    zones = ("clusterset.local", suffix)
    named = [_reachable(text) for text in to or ()]
    printer = Printer(output)

    async def work(client: KubeClient) -> None:
        servers = named if named or undo else await _agents(client, namespace)

        def change(text: str) -> str:
            return corefile.take_out(text) if undo else corefile.put(text, corefile.block(zones, servers), zones=zones)

        made = await stubdomain.edit(client, place, name, change, dry_run=dry_run)
        done = "unchanged" if not made.diff else "would change" if dry_run else "changed"
        item = {"configmap": configmap, "done": done, "diff": made.diff, "reloads": made.reloads}
        people = output is Format.TABLE
        if people:  # what was done is told before what is waited for
            printer.item(item, line=f"{made.diff}\n{configmap} {done}".lstrip())
        worker = Worker(client=client, namespace=place, clock=SystemClock(), say=printer.note)
        found = await nameservers.readers(worker, name, made) if restart else []
        due = [reader.name.title for reader in found if reader.mark]
        if dry_run:
            for title in due:
                printer.note(f"{title} would be restarted pod by pod")
        elif found:
            await nameservers.renew(worker, found, wait=timeout)
        if not people:
            printer.item({**item, "restarted": due, "readers": [reader.name.title for reader in found]}, line="")
        if made.diff and not dry_run and not found:
            taken = "each of its pods takes it up by itself, within minutes"
            printer.note(taken if made.reloads else "its Corefile has no `reload`: restart CoreDNS to take effect")

    asyncio.run(with_client(kubeconfig, context, work))


@app.command(
    "systemd",
    epilog="Examples: fedctl install systemd agent --settings /var/lib/isthmus/agent/settings.yaml --dry-run; "
    "fedctl install systemd agent --undo",
)
def systemd(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="registry, agent, gateway or sidecar.")],
    settings: Annotated[Path | None, typer.Option(metavar="FILE", help="Its settings, where they are to stay.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Stop it, and take its unit away again.")] = False,
    root: RootOption = Path("/"),
    programs: ProgramsOption = None,
    replace: ReplaceOption = False,
    keep_changed: KeepOption = False,
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write a hardened systemd unit for a process on a plain host, and start it."""
    from sidecar.vm import setup
    from sidecar.vm.host import Host

    if kind not in PROCESSES:
        raise InvalidInput(f"{kind!r} is no process of isthmus", hint=f"one of {', '.join(PROCESSES)}")
    host, printer = Host(root), Printer(output)
    if undo:
        outcome = setup.uninstall(host, kind, keep_changed=keep_changed, dry_run=dry_run)
        show(printer, [outcome], dry_run=dry_run)
        return
    if settings is None:
        raise InvalidInput("say where its settings are: --settings FILE", code="usage")
    part = setup.process_part(process_of(kind, settings, root=root, programs=str(programs or beside())), name=kind)
    show(printer, [setup.install(host, part, replace_changed=replace, dry_run=dry_run)], dry_run=dry_run)


async def _agents(client: KubeClient, namespace: str) -> list[str]:
    """Where pods reach the DNS of the agents that `fedctl install agent` has installed. Raises NotFound."""
    import msgspec

    from discovery.kube import errors as kube
    from discovery.kube.resources import SERVICES

    try:
        service = msgspec.json.decode(await client.get(SERVICES, namespace, AGENT_SERVICE))
    except kube.NotFound as error:
        raise NotFound(
            f"there is no Service {AGENT_SERVICE} in namespace {namespace}",
            hint="run `fedctl install agent` first, or give --to ADDRESS[:PORT] of an agent that runs elsewhere",
            code="no_agent",
        ) from error
    return [_reachable(address) for address in service["spec"].get("clusterIPs") or ()]


def _reachable(text: str) -> str:
    """ADDRESS:PORT as CoreDNS takes it, of an address that a pod can reach."""
    host, port = parse_server(text, key="--to")
    address = ipaddress.ip_address(host)
    if address.is_loopback or address.is_unspecified or address.is_link_local:
        raise InvalidInput(
            f"--to {host} is not where a pod reaches the agent", hint="give the address of the agent's pod or Service"
        )
    return join_address(host, port)


def _install(manifests: Sequence[str], kubeconfig: Path | None, context: str, dry_run: bool, output: Format) -> None:
    if dry_run:
        print("\n---\n".join(text.strip() for text in manifests))
        return
    from discovery.kube.install import Installed, install
    from federation.aio.clock import SystemClock

    async def work(client: KubeClient) -> list[Installed]:
        return await install(client, manifests, clock=SystemClock())

    done = asyncio.run(with_client(kubeconfig, context, work))
    rows = [{"kind": one.kind, "name": one.name, "done": one.done} for one in done]
    Printer(output).rows(("kind", "name", "done"), rows, empty="there is nothing to install")
