"""fedctl cluster: joins a cluster to the federation, and takes it out again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.clients import home_of, operator
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import NotFound
from federation.model.ids import parse_label
from federation.model.service import Locality

app = typer.Typer(no_args_is_help=True, help="Members of the federation.")


@app.command(
    "join", epilog="Example: fedctl cluster join east --token TOKEN --directory ./east --manifests ./east/manifests"
)
def join(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name, as in the token.")],
    token: Annotated[str, typer.Option(help="From `fedctl token issue CLUSTER`.")],
    directory: Annotated[Path, typer.Option(help="The state folder of the cluster's agent; it must be new.")],
    manifests: Annotated[Path, typer.Option(help="The folder of manifests that describes the cluster.")],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the agent serves its gateways and sidecars.")
    ] = "127.0.0.1:7445",
    region: Annotated[str, typer.Option(help="Region of the cluster.")] = "",
    zone: Annotated[str, typer.Option(help="Zone of the cluster.")] = "",
    metrics: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where /metrics is.")] = "127.0.0.1:0",
    output: OutputOption = Format.TABLE,
) -> None:
    """Join a cluster: make its own root, redeem the token, write the agent's settings."""
    from discovery.join import join as redeem

    parse_label(name, what="cluster")
    joined = asyncio.run(
        redeem(
            directory,
            token=token,
            cluster=name,
            manifests=manifests,
            listen=listen,
            locality=Locality(region, zone),
            metrics=metrics,
        )
    )
    home_of(context).with_cluster(name, directory).save()
    printer = Printer(output)
    printer.item(
        {"cluster": name, "trust_domain": joined.trust_domain, "fingerprint": joined.fingerprint},
        line=f"{name} joined as {joined.trust_domain}, root {joined.fingerprint}",
    )
    printer.note(f"start its agent with: isthmus-agent --settings {directory / 'settings.yaml'}")


@app.command("leave", epilog="Example: fedctl cluster leave east")
def leave(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CLUSTER")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Take a cluster out of the federation: its links, its exports and the trust in it end everywhere."""
    parse_label(name, what="cluster")

    async def ask() -> None:
        async with operator(context) as registry:
            await registry.leave(name)

    asyncio.run(ask())
    home_of(context).without_cluster(name).save()
    Printer(output).item({"cluster": name, "left": True}, line=f"{name} left the federation")


@app.command("use", epilog="Example: fedctl cluster use east /var/lib/isthmus/east")
def use(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CLUSTER")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The state folder of its agent on this machine.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Tell fedctl where the agent of a cluster keeps its state on this machine."""
    parse_label(name, what="cluster")
    if not directory.is_dir():
        raise NotFound(f"there is no folder {directory}", hint="give the state folder of the cluster's agent")
    home_of(context).with_cluster(name, directory).save()
    Printer(output).item({"cluster": name, "directory": str(directory)}, line=f"{name} is in {directory}")
