"""fedctl install: what a Kubernetes cluster needs before its agent starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.output import Format, OutputOption, Printer
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

app = typer.Typer(no_args_is_help=True, help="What a Kubernetes cluster needs before its agent starts.")

KubeconfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", envvar="KUBECONFIG", show_default="~/.kube/config", help="Kubeconfig of an administrator."
    ),
]
ContextOption = Annotated[
    str, typer.Option("--context", metavar="NAME", help="Context in it; default: its current one.")
]
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
    dry_run: DryRunOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install the agent's namespace, its service account and the rules that it needs, each with its reason."""
    from discovery.kube.rbac import manifests

    parse_label(namespace, what="namespace")
    wanted = manifests(namespace=namespace, create_namespaces=create_namespaces)
    _install(wanted, kubeconfig, context, dry_run, output)


def kubeconfig_or_default(given: Path | None) -> Path:
    """The kubeconfig that kubectl would read."""
    return (given or Path("~/.kube/config")).expanduser()


def _install(manifests: Sequence[str], kubeconfig: Path | None, context: str, dry_run: bool, output: Format) -> None:
    if dry_run:
        print("\n---\n".join(text.strip() for text in manifests))
        return
    from discovery.kube.client import KubeClient
    from discovery.kube.install import Installed, install
    from discovery.kube.settings import KubernetesSettings
    from federation import log
    from federation.aio.clock import SystemClock

    async def work() -> list[Installed]:
        settings = KubernetesSettings(kubeconfig=str(kubeconfig_or_default(kubeconfig)), context=context)
        clock = SystemClock()
        client = await KubeClient.open(settings, log=log.get("fedctl"), clock=clock)
        try:
            return await install(client, manifests, clock=clock)
        finally:
            await client.close()

    done = asyncio.run(work())
    rows = [{"kind": one.kind, "name": one.name, "done": one.done} for one in done]
    Printer(output).rows(("kind", "name", "done"), rows, empty="there is nothing to install")
