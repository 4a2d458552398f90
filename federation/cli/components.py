"""fedctl install registry|agent|gateway|webhook, fedctl upgrade, fedctl uninstall: isthmus in a Kubernetes cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from federation.cli.kubeconfig import ContextOption, KubeconfigOption, with_client
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

if TYPE_CHECKING:
    from discovery.kube.client import KubeClient
    from discovery.kube.install import Installed
    from federation.cli.installation.lifecycle import Manner
    from federation.cli.installation.request import Given
    from federation.cli.installation.work import Worker

T = TypeVar("T")
Values = dict[str, Any]

NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Where isthmus is, or is to be.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A value of the chart, such as agent.replicas=1; repeatable."),
]
ValuesOption = Annotated[
    list[Path] | None, typer.Option("--values", "-f", metavar="FILE", help="Values in a file; repeatable.")
]
ImageOption = Annotated[str, typer.Option("--image", metavar="REPOSITORY[:TAG]", help="Where its image is.")]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the manifests, and do nothing. With --context, with the values that the cluster remembers.",
    ),
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Until all is ready; says what is not, and why.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long --wait waits.")]
SkipCrdsOption = Annotated[bool, typer.Option("--skip-crds", help="The cluster has the custom resources already.")]
FederationOption = Annotated[
    str, typer.Option("--federation", metavar="DOMAIN", help="The federation's domain; the registry needs it.")
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", metavar="NAME", help="This cluster's name; the agent needs it.")
]

_EXAMPLES = {
    "registry": "fedctl install registry --context east --federation example.isthmus --address 192.0.2.10 --wait",
    "agent": "fedctl install agent --context east --cluster east --token TOKEN --wait",
    "gateway": "fedctl install gateway --context east --wait",
    "webhook": "fedctl install webhook --context east --wait",
}


def register(app: typer.Typer, install: typer.Typer) -> None:
    """Put the commands into fedctl, and those of the components into `fedctl install`."""
    for name, command in (("registry", registry), ("agent", agent), ("gateway", gateway), ("webhook", webhook)):
        install.command(name, epilog=f"Example: {_EXAMPLES[name]}")(command)
    app.command("upgrade", epilog="Example: fedctl upgrade --context east")(upgrade)
    app.command("uninstall", epilog="Example: fedctl uninstall gateway --context east")(uninstall)


# --- install ---------------------------------------------------------------------------------------------------------


def registry(
    federation: FederationOption = "",
    address: Annotated[
        str, typer.Option(metavar="HOST", help="Where other clusters reach it: an address or a name, without a port.")
    ] = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    image: ImageOption = "",
    sets: SetOption = None,
    files: ValuesOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install the registry: one for the whole federation."""
    given: Values = {"registry": {"address": address}} if address else {}
    _install(
        "registry",
        _given(given, federation=federation, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _manner(wait=wait, timeout=timeout),
        dry_run=dry_run,
        output=output,
    )


def agent(
    cluster: ClusterOption = "",
    token: Annotated[
        str, typer.Option(metavar="TOKEN", help="Of `fedctl token issue`; - reads it from standard input.")
    ] = "",
    federation: FederationOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    image: ImageOption = "",
    sets: SetOption = None,
    files: ValuesOption = None,
    skip_crds: SkipCrdsOption = False,
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="With --dry-run: print the token.")] = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install the agent, which joins this cluster to the federation."""
    from federation.trust.token import JoinToken

    token = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - standard input, by convention
    if token:
        named = JoinToken.parse(token).cluster
        if cluster and cluster != named:
            raise InvalidInput(
                f"the token is for cluster {named}, and --cluster says {cluster}",
                hint=f"issue one for it: fedctl token issue {cluster}",
                code="token_of_another_cluster",
            )
        cluster = named
    _install(
        "agent",
        _given({}, cluster=cluster, federation=federation, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _manner(wait=wait, timeout=timeout, token=token, show_secrets=show_secrets, crds=not skip_crds),
        dry_run=dry_run,
        output=output,
    )


def gateway(
    address: Annotated[
        str, typer.Option(metavar="IP", help="Where other clusters reach it; default: the node that each pod runs on.")
    ] = "",
    cluster: ClusterOption = "",
    federation: FederationOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    image: ImageOption = "",
    sets: SetOption = None,
    files: ValuesOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install gateways, which carry calls between clusters."""
    given: Values = {"gateway": {"address": address}} if address else {}
    _install(
        "gateway",
        _given(given, cluster=cluster, federation=federation, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _manner(wait=wait, timeout=timeout),
        dry_run=dry_run,
        output=output,
    )


def webhook(
    cluster: ClusterOption = "",
    federation: FederationOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    image: ImageOption = "",
    sets: SetOption = None,
    files: ValuesOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Install the webhook that gives a sidecar to pods that ask for one."""
    _install(
        "webhook",
        _given({}, cluster=cluster, federation=federation, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _manner(wait=wait, timeout=timeout),
        dry_run=dry_run,
        output=output,
    )


def _manner(*, wait: bool, timeout: float, token: str = "", show_secrets: bool = False, crds: bool = True) -> Manner:
    from federation.cli.installation.lifecycle import Manner

    return Manner(wait=timeout if wait else 0.0, token=token, show_secrets=show_secrets, crds=crds)


@dataclass(frozen=True, slots=True)
class _Target:
    kubeconfig: Path | None
    context: str
    namespace: str

    def __post_init__(self) -> None:
        parse_label(self.namespace, what="--namespace")

    def run(self, work: Callable[[Worker], Awaitable[T]], printer: Printer) -> T:
        """What `work` does with the cluster."""

        async def begin(client: KubeClient) -> T:
            from federation.aio.clock import SystemClock
            from federation.cli.installation.work import Worker

            return await work(Worker(client=client, namespace=self.namespace, clock=SystemClock(), say=printer.note))

        return asyncio.run(with_client(self.kubeconfig, self.context, begin))


def _given(
    values: Values,
    *,
    cluster: str = "",
    federation: str = "",
    image: str = "",
    sets: list[str] | None,
    files: list[Path] | None,
) -> Given:
    from federation.cli.installation.request import Given

    return Given(values=values, cluster=cluster, federation=federation, image=image, sets=sets or (), files=files or ())


def _install(component: str, given: Given, target: _Target, manner: Manner, *, dry_run: bool, output: Format) -> None:
    from federation.cli.installation import lifecycle

    printer, tree = Printer(output), given.tree()
    if dry_run:
        remembered = target.run(lambda worker: worker.record(), printer) if target.context else None
        print(lifecycle.manifests(component, tree, remembered, manner, namespace=target.namespace))
        return
    _show(printer, target.run(lambda worker: lifecycle.install(worker, component, tree, manner), printer))


# --- upgrade ---------------------------------------------------------------------------------------------------------


def upgrade(
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="Default: that of this fedctl.")] = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    image: ImageOption = "",
    sets: SetOption = None,
    files: ValuesOption = None,
    skip_crds: SkipCrdsOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be there, and do nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="One component after the other, each when the last is ready.")
    ] = True,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Upgrade all that is installed in the namespace, with the values that were given when it was."""
    from federation.cli.installation import lifecycle
    from federation.cli.installation.skew import Version

    if to:
        Version.parse(to)
    target, printer = _Target(kubeconfig, context, namespace), Printer(output)
    tree = _given({}, image=image, sets=sets, files=files).tree()
    if dry_run:
        print(target.run(lambda worker: lifecycle.upgraded_manifests(worker, to, tree), printer))
        return
    manner = _manner(wait=wait, timeout=timeout, crds=not skip_crds)
    _show(printer, target.run(lambda worker: lifecycle.upgrade(worker, to, tree, manner), printer))


# --- uninstall -------------------------------------------------------------------------------------------------------


def uninstall(
    what: Annotated[str, typer.Argument(metavar="COMPONENT", help="registry, agent, gateway, webhook or all.")],
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = SYSTEM_NAMESPACE,
    crds: Annotated[
        bool, typer.Option("--crds", help="With all: the custom resources too, and with them every export and import.")
    ] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also what it has kept: identities, the registry's volume.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With agent: also while gateways, pods or imports need it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and do nothing.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take away what `fedctl install` has made, and nothing else."""
    from federation.cli.installation import lifecycle
    from federation.cli.installation.record import COMPONENTS

    if what not in (*COMPONENTS, "all"):
        raise InvalidInput(f"{what!r} is no component", hint=f"one of {', '.join(COMPONENTS)}, or all", code="usage")
    if crds and what != "all":
        raise InvalidInput("--crds goes with all only", hint="fedctl uninstall all --crds", code="usage")
    printer, names = Printer(output), [] if what == "all" else [what]

    def work(worker: Worker) -> Awaitable[list[Installed]]:
        return lifecycle.uninstall(worker, names, crds=crds, purge=purge, dry_run=dry_run, force=force)

    _show(printer, _Target(kubeconfig, context, namespace).run(work, printer), empty="there is nothing to remove")


def _show(printer: Printer, done: list[Installed], *, empty: str = "there is nothing to install") -> None:
    rows = [{"kind": one.kind, "name": one.name, "done": one.done} for one in done]
    printer.rows(("kind", "name", "done"), rows, empty=empty)
