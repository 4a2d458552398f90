"""What the commands do: install one component beside others, upgrade all of them, take them away.

Everything that can be refused is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from discovery.kube.crds import manifests as crds
from discovery.kube.install import Installed
from discovery.kube.objects import Name
from federation.cli.chart import yamltext
from federation.cli.chart.source import Release, chart
from federation.cli.chart.values import Values, gather
from federation.cli.installation import leftovers, needs, request, skew
from federation.cli.installation.leftovers import JOIN
from federation.cli.installation.plan import plan
from federation.cli.installation.record import Record, switched
from federation.cli.installation.work import Busy, Worker
from federation.errors import NotFound

AGENT = "agent"
"""The component that brings custom resources, and joins."""
_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds between two tries while others write the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How it is done. `wait`: seconds for each component that is awaited, 0 for none."""

    wait: float = 0.0
    token: str = field(default="", repr=False)
    show_secrets: bool = False
    crds: bool = True


def manifests(component: str, given: Values, record: Record | None, manner: Manner, *, namespace: str) -> str:
    """One component as a file for kubectl; what `record` remembers lies below what is given. Raises InvalidValues."""
    values = request.only(request.installed(record, component, given), component)
    parts = list(chart().render(chart().values(_made(values, namespace=True)), Release(namespace=namespace)).values())
    parts.sort(key=lambda text: "kind: Namespace\n" not in text)
    if component == AGENT and manner.crds:
        parts += crds()
    if manner.token:
        parts.append(yamltext.dump(request.join_secret(manner.token, namespace, shown=manner.show_secrets)))
    return request.text_of(parts)


async def install(worker: Worker, component: str, given: Values, manner: Manner) -> list[Installed]:
    """One component beside those that are there, with the values that they remember.

    Several components may be installed at the same time: who comes second begins anew with what the first has written.
    Raises InvalidValues, Conflict, NotFound, NotReady, and the errors of discovery.kube.errors.
    """
    for pause in _PAUSES:
        try:
            return await _install(worker, component, given, manner)
        except Busy:
            await worker.clock.sleep(pause)
    return await _install(worker, component, given, manner)


async def _install(worker: Worker, component: str, given: Values, manner: Manner) -> list[Installed]:
    await worker.check_alone()
    record = await worker.record()
    if record is not None:
        request.check_same(record, given)
    values = request.installed(record, component, given)
    wanted = version_of(values)
    if record is not None:
        skew.check_same(record.version, wanted, reached=record.reached)
    chart().values(values)
    if component == AGENT and not manner.token and not await worker.can_join():
        worker.say("no join token: the agent waits for one; give it with --token, of `fedctl token issue`")
    return await _bring(worker, record, values, wanted, manner, crds=component == AGENT, awaited=[component])


async def upgrade(worker: Worker, to: str, given: Values, manner: Manner) -> list[Installed]:
    """All that is installed, one component after the other; `to` is a version, empty for that of this package.

    Raises as `install`.
    """
    record, values, wanted = await _upgraded(worker, to, given)
    there = record.components
    worker.say(f"{record.version} → {wanted}: {', '.join(there)}")
    return await _bring(worker, record, values, wanted, manner, crds=AGENT in there, awaited=there)


async def upgraded_manifests(worker: Worker, to: str, given: Values) -> str:
    """What `upgrade` would apply, custom resources aside."""
    record, values, _ = await _upgraded(worker, to, given)
    values = chart().values(_made(values, namespace=record.made_namespace))
    return request.text_of(chart().render(values, Release(namespace=worker.namespace)).values())


async def _upgraded(worker: Worker, to: str, given: Values) -> tuple[Record, Values, str]:
    """What is remembered, and the values and the version after an upgrade. Raises Conflict where that is refused."""
    record = await installed(worker)
    request.check_same(record, given)
    # The tag that was there is that of the old version; whose image is elsewhere names the new one.
    tag = {"image": {"tag": to, "digest": ""}} if to or not given.get("image") else {}
    values = gather(record.values, tag, given)
    wanted = version_of(values)
    own = skew.Version.parse(chart().version)
    held, new, reached = map(skew.Version.parse, (record.version, wanted, record.reached))
    skew.check(held, new, own=own, reached=reached)
    chart().values(values)
    return record, values, wanted


async def installed(worker: Worker) -> Record:
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


async def uninstall(
    worker: Worker, components: Collection[str], *, crds: bool, purge: bool, dry_run: bool, force: bool = False
) -> list[Installed]:
    """Take the components away (none: all), and with `purge` what they have made themselves.

    Raises NotFound for one that is not there, and without `force` Conflict for an agent that is needed yet.
    """
    record = await installed(worker)
    going = components or record.components
    for one in going:
        if one not in record.components:
            raise NotFound(
                f"{one} is not installed in namespace {worker.namespace}",
                hint=f"installed are {', '.join(record.components)}",
                code="not_installed",
            )
    after = replace(record, values=gather(record.values, switched(going, on=False)))
    if AGENT in going and components and not force:
        (await needs.look(worker, after.components)).check(record.values.get("cluster", ""))
    elif AGENT in going and (pods := await needs.injected_pods(worker)):
        worker.say(f"without an agent: {needs.counted(len(pods), 'pod')} with a sidecar ({needs.some(pods)})")
    rest = _documents(after, worker.namespace) if after.components else []
    # The namespace holds what is kept; it goes last, if at all.
    keep = [name for name in record.objects if name.kind == "Namespace"]
    if AGENT in after.components:
        keep.append(Name("Secret", worker.namespace, JOIN))
    gone = plan(rest, held=record.objects, keep=keep).gone
    read = await worker.still_read(gone, after.components)
    gone = tuple(name for name in gone if name not in read)
    made = leftovers.kept(going, worker.namespace) if purge else []
    if dry_run:
        return [Installed(name.kind, name.name, "would go") for name in (*gone, *made)]
    done = await worker.remove(gone)
    done += await leftovers.purge(worker, made)
    if after.components:
        off, away = switched(going, on=False), frozenset(gone)
        await worker.amend(lambda now: replace(now, values=gather(now.values, off), objects=now.objects - away))
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


async def _bring(
    worker: Worker,
    record: Record | None,
    values: Values,
    version: str,
    manner: Manner,
    *,
    crds: bool,
    awaited: Collection[str],
) -> list[Installed]:
    """Make the cluster what the values say, and wait for the components that are `awaited`, if for any."""
    after = Record(
        namespace=worker.namespace,
        version=version,
        values=values,
        made_namespace=record.made_namespace if record is not None else await worker.may_make_namespace(),
        resource_version=record.resource_version if record is not None else "",
    )
    documents = _documents(after, worker.namespace)
    if manner.token:
        documents.append(request.join_secret(manner.token, worker.namespace))
    keep = [Name("Secret", worker.namespace, JOIN)] if AGENT in after.components else []
    made = plan(documents, held=record.objects if record is not None else (), keep=keep)
    await worker.check(made)
    done = await worker.install_crds(wanted=manner.crds) if crds else []
    return done + await worker.apply(made, after, before=record, wait=manner.wait, awaited=awaited)


def _documents(record: Record, namespace: str) -> list[dict[str, Any]]:
    values = _made(record.values, namespace=record.made_namespace)
    return request.documents(chart(), values, Release(namespace=namespace))


def _made(values: Mapping[str, Any], *, namespace: bool) -> Values:
    """The values with the namespace among the objects, or not."""
    return {**values, "namespace": {**values.get("namespace", {}), "create": namespace}}


def version_of(values: Mapping[str, Any]) -> str:
    """The version that the values install: that of the image's tag where it says one, otherwise the chart's."""
    tag = (values.get("image") or {}).get("tag", "")
    told = skew.version_of_image(f"isthmus:{tag}") if tag else None
    return str(told) if told is not None else chart().version
