"""fedctl vm: virtual machines: how they are invited, which there are, how they are removed."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli import bundle, vm_host
from federation.cli.clients import agent, from_agents, home_of
from federation.cli.completion import known_clusters
from federation.cli.output import Format, OutputOption, Printer
from federation.cli.text import age, timestamp
from federation.errors import InvalidInput, StorageFailed
from federation.model.address import split_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

if TYPE_CHECKING:
    from federation.proto.v1 import agent_pb2

app = typer.Typer(no_args_is_help=True, help="Virtual machines of a cluster, with the agent on another machine.")
vm_host.register(app)

MAX_TTL_SECONDS = 900
DEFAULT_STATE = "/var/lib/isthmus/{process}"

ClusterOption = Annotated[str, typer.Option(help="The cluster that it belongs to.", autocompletion=known_clusters)]


@app.command(
    "bootstrap",
    epilog="Examples: fedctl vm bootstrap web-1 --cluster dc1 --namespace shop --account web --to ./web-1; "
    "fedctl vm bootstrap db-1 --cluster dc1 --service shop/db > db-1.yaml; "
    "fedctl vm bootstrap gw-1 --cluster dc1 --gateway 192.0.2.10:15443 --to ./gw-1",
)
def bootstrap(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The machine's name, a DNS label.")],
    cluster: ClusterOption,
    namespace: Annotated[str, typer.Option(help="Namespace of its workload's identity.")] = "default",
    account: Annotated[str, typer.Option(help="Account of its workload's identity; default: its name.")] = "",
    service: Annotated[
        list[str] | None,
        typer.Option(metavar="NS/NAME", help="What it may register; either part may be *. Repeat it for several."),
    ] = None,
    gateway: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="It runs a gateway instead, which peers reach there.")
    ] = "",
    ttl: Annotated[int, typer.Option(help="Seconds until the token expires, at most 900.")] = MAX_TTL_SECONDS,
    state: Annotated[str, typer.Option(metavar="DIR", help="Its state folder there.")] = "",
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Write files here; default: print one YAML.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Invite a machine: one bundle of settings, anchors and a token that works once, within minutes."""
    parse_label(name, what="VM")
    if not 1 <= ttl <= MAX_TTL_SECONDS:
        raise InvalidInput(f"--ttl {ttl} is out of range", code="invalid_ttl", hint="give 1 to 900 seconds")
    process = "gateway" if gateway else "sidecar"
    if gateway:
        split_address(gateway, what="--gateway", zero=False)
        if account or namespace != "default":
            raise InvalidInput("a gateway's identity is given: leave out --namespace and --account")
        namespace, account = SYSTEM_NAMESPACE, "gateway"
    account = account or name

    async def ask() -> agent_pb2.InviteVmReply:
        async with agent(context, cluster) as client:
            return await client.invite_vm(name, namespace, account, services=service or (), ttl_seconds=ttl)

    reply = asyncio.run(ask())
    made = _bundle(
        reply, name, cluster, namespace, account, process, gateway, state or DEFAULT_STATE.format(process=process)
    )
    printer = Printer(output)
    if to is not None:
        made.write(to)
        printer.item(
            {**made.document(), "files": {file: str(to / file) for file in made.files}},
            line=f"{name} may join {cluster} until {made.expires}: its files are in {to}",
        )
        printer.note(f"copy them to the machine, and start there: isthmus-{process} --settings {_settings(process)}")
    else:
        printer.item(made.document(), line=made.text().rstrip("\n"))
        printer.note(f"{name} may join {cluster} until {made.expires}, once")


def _settings(process: str) -> str:
    return f"DIR/{bundle.SETTINGS[process]}"


def _bundle(
    reply: agent_pb2.InviteVmReply,
    name: str,
    cluster: str,
    namespace: str,
    account: str,
    process: str,
    gateway: str,
    state: str,
) -> bundle.VmBundle:
    from federation.trust.pem import armour

    invitation = bundle.Invitation(
        vm=name,
        cluster=cluster,
        namespace=namespace,
        account=account,
        trust_domain=reply.bundle.trust_domain,
        token=reply.token,
        anchors=armour(tuple(reply.bundle.roots)).decode(),
        enrolment=tuple(reply.enrolment_addresses),
        addresses=tuple(reply.agent_addresses),
        suffix=reply.suffix,
    )
    if process == "gateway":
        address, port = split_address(gateway, what="--gateway", zero=False)
        files = bundle.gateway(invitation, state=state, address=address, port=port)
    else:
        files = bundle.sidecar(invitation, state=state)
    return bundle.VmBundle(
        vm=name,
        cluster=cluster,
        process=process,
        expires=timestamp(reply.expires_ns),
        fingerprint=reply.fingerprint,
        files=files,
    )


@app.command("unpack", epilog="Example: ssh web-1 sudo fedctl vm unpack - /etc/isthmus < web-1.yaml")
def unpack(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `fedctl vm bootstrap` printed; -: standard input.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where its files go.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the files of a bundle, on the machine itself."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageFailed(f"cannot read {file}: {error}") from error
    found = bundle.VmBundle.parse(text)
    found.write(directory)
    settings = directory / bundle.SETTINGS.get(found.process, "settings.yaml")
    printer = Printer(output)
    printer.item(
        {"vm": found.vm, "cluster": found.cluster, "files": [str(directory / name) for name in found.files]},
        line=f"the files of VM {found.vm} are in {directory}",
    )
    printer.note(f"start it with: isthmus-{found.process} --settings {settings}")


@app.command("list", epilog="Example: fedctl vm list --cluster dc1 -o json")
def list_(
    context: typer.Context,
    cluster: Annotated[str, typer.Option(help="Only of this cluster.", autocompletion=known_clusters)] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """The machines that were invited, have joined, or are not heard of."""
    home = home_of(context)
    printer = Printer(output)

    async def ask(name: str) -> list[dict[str, Any]]:
        async with agent(home, name) as client:
            return [_row(name, vm, output) for vm in await client.vms()]

    rows = from_agents(home, cluster, ask, printer)
    printer.rows(
        ("name", "cluster", "identity", "services", "state", "address", "version", "seen", "problems"),
        rows,
        empty="no VMs yet: fedctl vm bootstrap NAME --cluster CLUSTER",
    )


def _row(cluster: str, vm: agent_pb2.VmStatus, output: Format) -> dict[str, Any]:
    table = output is Format.TABLE
    problems = [{"code": p.code, "subject": p.subject, "detail": p.detail} for p in vm.problems]
    row: dict[str, Any] = {
        "name": vm.name,
        "cluster": cluster,
        "identity": f"{vm.namespace}/{vm.account}",
        "services": list(vm.services),
        "state": vm.state,
        "address": vm.address,
        "version": vm.version,
        "seen": age(vm.seen_ns, time.time_ns()) if table else timestamp(vm.seen_ns),
        "problems": sorted({p["code"] for p in problems}) if table else problems,
    }
    if not table:
        row |= {
            "created": timestamp(vm.created_ns),
            "joined": timestamp(vm.joined_ns),
            "token_expires": timestamp(vm.token_expires_ns),
        }
    return row


@app.command("remove", epilog="Example: fedctl vm remove web-1 --cluster dc1")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    cluster: ClusterOption,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take a machine out of its cluster: its streams end, its agent admits it no more, its key and token are worthless.

    What it holds already ends by itself: its certificate within the hour, unless the agent's `svid_ttl` says otherwise.
    """
    parse_label(name, what="VM")

    async def ask() -> None:
        async with agent(context, cluster) as client:
            await client.remove_vm(name)

    asyncio.run(ask())
    printer = Printer(output)
    printer.item({"vm": name, "cluster": cluster, "removed": True}, line=f"{name} is no VM of {cluster} any more")
    printer.note("peers take its certificate until it expires, within `svid_ttl` of the agent (an hour)")
