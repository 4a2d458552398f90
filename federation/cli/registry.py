"""fedctl registry: makes a federation's registry, and serves it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from federation.cli.clients import home_of
from federation.cli.home import RegistryPlace
from federation.cli.options import PodContextOption, PodKubeconfigOption, PodNamespaceOption, place_of
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, NotFound
from federation.model.ids import SYSTEM_NAMESPACE
from federation.registry.settings import DEFAULT_ENROLMENT, DEFAULT_LISTEN, DEFAULT_METRICS

app = typer.Typer(no_args_is_help=True, help="The federation's registry.")

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The registry's folder.")]


@app.command("init", epilog="Example: fedctl registry init ./registry --federation demo.isthmus --single-machine")
def init(
    context: typer.Context,
    directory: Directory,
    federation: Annotated[str, typer.Option(help="The federation's domain; trust domains are CLUSTER.DOMAIN.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where members connect.")] = DEFAULT_LISTEN,
    enrolment: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where new members join.")] = DEFAULT_ENROLMENT,
    advertise: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="What members dial, if not --listen (0.0.0.0, NAT).")
    ] = "",
    advertise_enrolment: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="What new members dial, if not --enrolment.")
    ] = "",
    metrics: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where /metrics is.")] = DEFAULT_METRICS,
    single_machine: Annotated[
        bool, typer.Option("--single-machine", help="All members run here: gateways on loopback are allowed.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a registry: its certificate authority, its store, and this operator's credential."""
    from federation.registry.init import init as make

    settings = make(
        directory,
        federation,
        listen=listen,
        enrolment=enrolment,
        metrics=metrics,
        advertise=advertise,
        advertise_enrolment=advertise_enrolment,
        single_machine=single_machine,
    )
    home_of(context).update(lambda home: home.with_operator(directory / "operator"))
    printer = Printer(output)
    printer.item(
        {"directory": str(directory), "settings": str(settings), "federation": federation, "listen": listen},
        line=f"registry of {federation} made in {directory}",
    )
    printer.note(f"start it with: fedctl registry serve {directory}")


@app.command("serve", epilog="Example: fedctl registry serve ./registry")
def serve(directory: Directory) -> None:
    """Serve the registry in DIR until it is told to stop."""
    if not (directory / "settings.yaml").exists():
        raise NotFound(f"there is no registry in {directory}", hint="run `fedctl registry init DIR` first")
    from federation.registry.__main__ import main as run

    sys.argv = ["isthmus-registry", "--settings", str(directory / "settings.yaml")]
    run()


@app.command("use", epilog="Examples: fedctl registry use ./operator; fedctl registry use --context kind-a")
def use(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of an operator's credential.", show_default=False)
    ] = None,
    kube_context: PodContextOption = "",
    kubeconfig: PodKubeconfigOption = None,
    namespace: PodNamespaceOption = SYSTEM_NAMESPACE,
    bridge: Annotated[
        bool, typer.Option("--bridge", help="Dial it by way of the API server, also where its address can be reached.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Use a registry that was made elsewhere: with an operator's credential copied from there, or from its pod."""
    home, printer = home_of(context), Printer(output)
    if directory is not None:
        if kube_context or kubeconfig or bridge:
            raise InvalidInput("give DIR, or --context for a registry in a pod, not both")
        if not directory.is_dir():
            raise NotFound(f"there is no folder {directory}", hint="copy the `operator` folder of the registry")
        home.update(lambda now: now.with_operator(directory))
        printer.item({"operator": str(directory)}, line=f"using the operator's credential in {directory}")
        return
    place = place_of(kube_context, kubeconfig, namespace)
    if place is None:
        raise InvalidInput("say where the registry is: DIR of a credential, or --context NAME for one in a pod")
    from federation.cli.pods import dialled, fetch_credential, registry_address

    folder = home.directory / "operator"
    registry = RegistryPlace(kubeconfig=place.kubeconfig, context=place.context, namespace=place.namespace)

    async def fetch() -> bool:
        await fetch_credential(folder, registry)
        return bridge or not await dialled(registry_address(folder))

    by_bridge = asyncio.run(fetch())
    used = msgspec.structs.replace(registry, bridge=by_bridge)
    home.update(lambda now: now.with_operator(folder, registry=used))
    address = registry_address(folder)
    printer.item(
        {"operator": str(folder), "registry": address, "bridge": by_bridge, "namespace": place.namespace},
        line=f"using the registry in {place}, at {address}{' by way of the API server' if by_bridge else ''}",
    )
