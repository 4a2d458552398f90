"""fedctl install registry|agent|gateway|webhook, fedctl upgrade, fedctl uninstall: isthmus in a Kubernetes cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from federation.cli.kubeconfig import ContextOption, KubeconfigOption, with_client
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import Conflict, InvalidInput, NotFound
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

if TYPE_CHECKING:
    from discovery.kube.client import KubeClient
    from discovery.kube.install import Installed
    from federation.cli.installation.record import Record
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
FederationOption = Annotated[str, typer.Option("--federation", metavar="DOMAIN", help="The federation's domain.")]
ClusterOption = Annotated[str, typer.Option("--cluster", metavar="NAME", help="This cluster's name in the federation.")]

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
        _How(dry_run=dry_run, wait=timeout if wait else 0.0, output=output),
    )


def agent(
    cluster: ClusterOption = "",
    token: Annotated[
        str, typer.Option(metavar="TOKEN", help="Of `fedctl token issue`; - reads it from standard input.")
    ] = "",
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
        _given({}, cluster=cluster, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _How(
            dry_run=dry_run,
            wait=timeout if wait else 0.0,
            output=output,
            token=token,
            show_secrets=show_secrets,
            crds=not skip_crds,
        ),
    )


def gateway(
    address: Annotated[
        str, typer.Option(metavar="IP", help="Where other clusters reach it; default: the node that each pod runs on.")
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
    """Install gateways, which carry calls between clusters."""
    given: Values = {"gateway": {"address": address}} if address else {}
    _install(
        "gateway",
        _given(given, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _How(dry_run=dry_run, wait=timeout if wait else 0.0, output=output),
    )


def webhook(
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
        _given({}, image=image, sets=sets, files=files),
        _Target(kubeconfig, context, namespace),
        _How(dry_run=dry_run, wait=timeout if wait else 0.0, output=output),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """The options that say how it is done; `wait` is 0 where nothing is waited for."""

    dry_run: bool = False
    wait: float = 0.0
    output: Format = Format.TABLE
    token: str = field(default="", repr=False)
    show_secrets: bool = False
    crds: bool = True


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


def _install(component: str, given: Given, target: _Target, how: _How) -> None:
    from federation.cli.installation import request

    printer, tree = Printer(how.output), given.tree()
    if how.dry_run:
        remembered = target.run(lambda worker: worker.record(), printer) if target.context else None
        values = request.only(request.installed(remembered, component, tree), component)
        print(_manifests(component, values, target.namespace, how))
        return

    async def work(worker: Worker) -> list[Installed]:
        return await _put(worker, component, tree, how)

    _show(printer, target.run(work, printer))


def _manifests(component: str, values: Values, namespace: str, how: _How) -> str:
    """As --dry-run prints them."""
    from discovery.kube.crds import manifests as crds
    from federation.cli.chart import yamltext
    from federation.cli.chart.source import Release, chart
    from federation.cli.installation import request

    values = {**values, "namespace": {**values.get("namespace", {}), "create": True}}
    parts = list(chart().render(chart().values(values), Release(namespace=namespace)).values())
    parts.sort(key=lambda text: "kind: Namespace\n" not in text)
    if component == "agent":
        if how.crds:
            parts += crds()
        if how.token:
            parts.append(yamltext.dump(request.join_secret(how.token, namespace, shown=how.show_secrets)))
    return request.text_of(parts)


async def _put(worker: Worker, component: str, tree: Values, how: _How) -> list[Installed]:
    """Install one component beside those that are there."""
    from federation.cli.chart.source import chart
    from federation.cli.installation import request, skew

    await worker.check_alone()
    record = await worker.record()
    if record is not None:
        request.check_same(record, tree)
    values = request.installed(record, component, tree)
    wanted = _version(values)
    if record is not None and skew.Version.parse(record.version) != skew.Version.parse(wanted):
        raise Conflict(
            f"isthmus {record.version} is installed, and this would be {wanted}",
            hint="run `fedctl upgrade` first, or use the fedctl of that version",
            code="upgrade_first",
        )
    chart().values(values)  # what cannot be is said before anything is done
    extra = [request.join_secret(how.token, worker.namespace)] if how.token else []
    if component == "agent" and not how.token and not await worker.can_join():
        worker.say("no join token: the agent waits for one; give it with --token, of `fedctl token issue`")
    return await _bring(worker, record, values, wanted, how, extra=extra, crds=component == "agent")


async def _bring(
    worker: Worker,
    record: Record | None,
    values: Values,
    version: str,
    how: _How,
    *,
    extra: list[dict[str, Any]],
    crds: bool,
) -> list[Installed]:
    """Make the cluster what the values say."""
    from discovery.kube.objects import Name
    from federation.cli.chart.source import Release, chart
    from federation.cli.installation import request
    from federation.cli.installation.leftovers import JOIN
    from federation.cli.installation.plan import plan
    from federation.cli.installation.record import Record

    ours = record.made_namespace if record is not None else not await worker.namespace_there()
    rendered = {**values, "namespace": {**values.get("namespace", {}), "create": ours}}
    documents = request.documents(chart(), rendered, Release(namespace=worker.namespace)) + extra
    agent = "agent" in Record(namespace="", values=values).components
    keep = [Name("Secret", worker.namespace, JOIN)] if agent and record is not None else []
    held = record.objects if record is not None else frozenset()
    made = plan(documents, held=held, keep=keep)
    await worker.check(made)
    done = await worker.install_crds(wanted=how.crds) if crds else []
    after = Record(
        namespace=worker.namespace,
        version=version,
        values=values,
        made_namespace=ours,
        resource_version=record.resource_version if record is not None else "",
    )
    return done + await worker.apply(made, after, before=record, wait=how.wait)


def _version(values: Values) -> str:
    """The version that the values install: that of the image's tag where it says one, otherwise the chart's."""
    from federation.cli.chart.source import chart
    from federation.cli.installation.skew import version_of_image

    tag = (values.get("image") or {}).get("tag", "")
    told = version_of_image(f"isthmus:{tag}") if tag else None
    return str(told) if told is not None else chart().version


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
    from federation.cli.installation.skew import Version

    if to:
        Version.parse(to)
    target, printer = _Target(kubeconfig, context, namespace), Printer(output)
    tree = _given({}, image=image, sets=sets, files=files).tree()
    how = _How(dry_run=dry_run, wait=timeout if wait else 0.0, output=output, crds=not skip_crds)

    async def work(worker: Worker) -> list[Installed] | str:
        return await _upgrade(worker, to, tree, how)

    done = target.run(work, printer)
    if isinstance(done, str):
        print(done)
    else:
        _show(printer, done)


async def _upgrade(worker: Worker, to: str, tree: Values, how: _How) -> list[Installed] | str:
    from federation.cli.chart.source import Release, chart
    from federation.cli.chart.values import gather
    from federation.cli.installation import request, skew

    record = await _installed(worker)
    request.check_same(record, tree)
    # The tag that was there is that of the old version; whose image is elsewhere names the new one.
    tag = {"image": {"tag": to, "digest": ""}} if to or not tree.get("image") else {}
    values = gather(record.values, tag, tree)
    own, wanted = skew.Version.parse(chart().version), skew.Version.parse(_version(values))
    skew.check(skew.Version.parse(record.version), wanted, own=own)
    chart().values(values)
    if how.dry_run:
        rendered = {**values, "namespace": {**values.get("namespace", {}), "create": record.made_namespace}}
        texts = chart().render(chart().values(rendered), Release(namespace=worker.namespace))
        return request.text_of(texts.values())
    worker.say(f"{record.version} → {wanted}: {', '.join(record.components)}")
    return await _bring(worker, record, values, str(wanted), how, extra=[], crds="agent" in record.components)


async def _installed(worker: Worker) -> Record:
    """Raises NotFound when there is no installation in the namespace."""
    record = await worker.record()
    if record is None:
        others = await worker.elsewhere()
        raise NotFound(
            f"isthmus is not installed in namespace {worker.namespace}",
            hint=f"it is in {others[0]}: --namespace {others[0]}" if others else "see fedctl install --help",
            code="not_installed",
        )
    return record


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and do nothing.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take away what `fedctl install` has made, and nothing else."""
    from federation.cli.installation.record import COMPONENTS

    if what not in (*COMPONENTS, "all"):
        raise InvalidInput(f"{what!r} is no component", hint=f"one of {', '.join(COMPONENTS)}, or all", code="usage")
    if crds and what != "all":
        raise InvalidInput("--crds goes with all only", hint="fedctl uninstall all --crds", code="usage")
    printer = Printer(output)

    async def work(worker: Worker) -> list[Installed]:
        return await _uninstall(worker, what, crds=crds, purge=purge, dry_run=dry_run)

    _show(printer, _Target(kubeconfig, context, namespace).run(work, printer), empty="there is nothing to remove")


async def _uninstall(worker: Worker, what: str, *, crds: bool, purge: bool, dry_run: bool) -> list[Installed]:
    from discovery.kube.install import Installed
    from federation.cli.chart.source import Release, chart
    from federation.cli.chart.values import gather
    from federation.cli.installation import leftovers, request
    from federation.cli.installation.plan import plan
    from federation.cli.installation.record import switched

    record = await _installed(worker)
    names = list(record.components) if what == "all" else [what]
    if what != "all" and what not in record.components:
        raise NotFound(f"{what} is not installed in namespace {worker.namespace}", code="not_installed")
    values = gather(record.values, switched(names, on=False))
    after = replace(record, values=values)
    rest: list[dict[str, Any]] = []
    if after.components:
        rendered = {**values, "namespace": {**values.get("namespace", {}), "create": record.made_namespace}}
        rest = request.documents(chart(), rendered, Release(namespace=worker.namespace))
    # The namespace holds what is kept.
    keep = [name for name in record.objects if name.kind == "Namespace"]
    if "agent" in after.components:
        keep += [name for name in record.objects if name.name == leftovers.JOIN]
    gone = plan(rest, held=record.objects, keep=keep).gone
    more = [name for name in leftovers.kept(names, worker.namespace)] if purge else []
    if dry_run:
        return [Installed(name.kind, name.name, "would go") for name in (*gone, *more)]
    done = await worker.remove(gone)
    done += await leftovers.purge(worker, more) if purge else []
    if after.components:
        await worker.remember(replace(after, objects=record.objects - frozenset(gone)))
        return done
    if crds:
        done += await worker.remove_crds()
    else:
        worker.say("kept: custom resources and what is in them (--crds removes them)")
    await worker.forget(record)
    if purge:
        done += await worker.remove_namespace(record)
    else:
        worker.say(f"kept: namespace {worker.namespace} with identities and volumes (--purge removes them)")
    return done


def _show(printer: Printer, done: list[Installed], *, empty: str = "there is nothing to install") -> None:
    rows = [{"kind": one.kind, "name": one.name, "done": one.done} for one in done]
    printer.rows(("kind", "name", "done"), rows, empty=empty)
