"""Does to a cluster what an installation's plan says: applies, waits, takes away, and remembers it.

What will be there is written down before it is made, and what is gone only afterwards: whoever is interrupted leaves
nothing that the next run does not know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from discovery.kube import errors as kube
from discovery.kube.client import KubeClient
from discovery.kube.crds import manifests as crds
from discovery.kube.install import Installed, apply_one, install
from discovery.kube.objects import CRDS, MANAGER, ORDER, PART_OF, PODS, STATEFUL_SETS, WEBHOOKS, Name, installed_by_us
from discovery.kube.resources import CONFIG_MAPS, NAMESPACES
from federation.aio.clock import Clock
from federation.cli.installation import leftovers
from federation.cli.installation.formersettings import component_of, still_read
from federation.cli.installation.plan import Document, Plan, Wave, check_owner, removable
from federation.cli.installation.record import LABEL, NAME, Record, begin, end
from federation.cli.installation.rollout import missing, reasons, unregistered
from federation.errors import Conflict, NotFound, TimedOut

T = TypeVar("T")
Say = Callable[[str], None]
"""Told a line of progress."""
_POLL_SECONDS = 1.0
_ATTEMPTS = 10
_BUSY_SECONDS = 30.0
"""For which a busy API server is asked again."""
_ORPHAN_SECONDS = 60.0
"""In which a StatefulSet leaves its pods and goes."""
_POLICY = "podManagementPolicy"


class Busy(Conflict):
    """Somebody else has written the record since it was read; nothing was done yet."""

    code = "installation_busy"


class NotReady(TimedOut):
    """What was installed does not run as it should in the time that it was given."""

    code = "not_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One namespace of one cluster."""

    client: KubeClient
    namespace: str
    clock: Clock
    say: Say

    # --- what is there -----------------------------------------------------------------------------------------------

    async def record(self) -> Record | None:
        """What the installation in the namespace remembers; None where there is none. Raises CorruptState."""
        try:
            return Record.parse(await self.client.get(CONFIG_MAPS, self.namespace, NAME))
        except kube.NotFound:
            return None

    async def elsewhere(self) -> list[str]:
        """Namespaces of other installations in the cluster."""
        selector = f"{LABEL}=values"
        names = [
            msgspec.json.decode(item)["metadata"]["namespace"]
            async for page in self.client.pages(CONFIG_MAPS, label_selector=selector)
            for item in page.items
        ]
        return sorted(set(names) - {self.namespace})

    async def check_alone(self) -> None:
        """Raises Conflict where isthmus is installed in another namespace: both would write the same objects."""
        if others := await self.elsewhere():
            raise Conflict(
                f"isthmus is installed in namespace {others[0]} of this cluster",
                hint=f"go on with --namespace {others[0]}, or uninstall it there",
                code="installed_elsewhere",
            )

    async def held(self, name: Name) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = msgspec.json.decode(
                await self.client.get(name.resource, name.namespace or None, name.name)
            )
        except kube.NotFound:
            return None
        return found

    async def can_join(self) -> bool:
        """Whether the cluster has an identity, or a token to get one with."""
        names = (Name("Secret", self.namespace, one) for one in (leftovers.IDENTITY, leftovers.JOIN))
        return any([await self.held(name) is not None for name in names])

    async def may_make_namespace(self) -> bool:
        """Whether the namespace is for us to make: there is none, or we have made it before."""
        held = await self.held(Name("Namespace", "", self.namespace))
        return held is None or installed_by_us(held)

    # --- what is made ------------------------------------------------------------------------------------------------

    async def check(self, plan: Plan) -> None:
        """Raises Conflict for the first object that is there and not ours, before anything is changed."""
        for name in sorted(plan.names):
            if name.kind != "Namespace" and (there := await self.held(name)) is not None:
                check_owner(name, there)

    async def install_crds(self, *, wanted: bool) -> list[Installed]:
        """Apply the custom resources; where that is not wanted, raises NotFound when there are none."""
        if wanted:
            return await install(self.client, crds(), clock=self.clock)
        served = await self.client.served("multicluster.x-k8s.io", refresh=True)
        if not served.plurals:
            raise NotFound(
                "the cluster has no ServiceExport and ServiceImport",
                hint="run `fedctl install crds`, or leave --skip-crds out",
                code="crds_missing",
            )
        return []

    async def apply(
        self, plan: Plan, record: Record, *, before: Record | None, wait: float, awaited: Collection[str]
    ) -> list[Installed]:
        """Apply the waves of the plan, then take away what goes. Those whose title is `awaited` are waited for before
        the next one, up to `wait` seconds (0: not at all). Settings that pods of before may still read stay.

        Raises Busy before anything is done, when another one has begun meanwhile; NotReady.
        """
        titles = {wave.title for wave in plan.waves}
        unseen = titles - (set(awaited) if wait else set())
        templates = [one for wave in plan.waves if wave.title in unseen for one in await self._templates(wave)]
        begun = begin(before, record, plan.names)
        done = []
        for wave in plan.waves:
            for document in wave.documents:
                if document["kind"] == "Namespace":
                    done.append(await apply_one(self.client, document))
        await self.remember(begun)
        for wave in plan.waves:
            # A webhook is asked only when there is somebody to answer.
            early, late = (
                [one for one in wave.documents if (one["kind"] == WEBHOOKS.kind) is last] for last in (False, True)
            )
            done += [await self._put(one) for one in early if one["kind"] != "Namespace"]
            waits = bool(wait and wave.workloads and wave.title in awaited)
            if waits:
                await self.wait(wave, wait)
            done += [await apply_one(self.client, one) for one in late]
            if waits and late:
                await self._wait_registered(wave, [Name.of(one) for one in late], wait)
        read = await self.still_read(plan.gone, titles, templates)
        gone = [name for name in plan.gone if name not in read]
        done += await self.remove(gone)
        await self.amend(lambda now: end(now, begun, record, gone))
        return done

    async def _put(self, document: Document) -> Installed:
        """Apply one document. A StatefulSet that makes its pods one after the other cannot be told otherwise: it is
        made anew around its pod, which goes on. Raises NotReady where it does not go for that."""
        name = Name.of(document)
        held = await self.held(name) if name.resource is STATEFUL_SETS else None
        if held is not None and held["spec"].get(_POLICY) != document["spec"].get(_POLICY):
            self.say(f"{name.title} is made anew, and its pod goes on")
            uid, deadline = held["metadata"]["uid"], self.clock.monotonic() + _ORPHAN_SECONDS
            with contextlib.suppress(kube.NotFound):
                await self.client.delete(name.resource, name.namespace, name.name, uid=uid, propagation="Orphan")
            while (held := await self.held(name)) is not None and held["metadata"]["uid"] == uid:
                if self.clock.monotonic() >= deadline:
                    raise NotReady(
                        f"{name.title} was to be made anew, and has not gone after {_ORPHAN_SECONDS:g} s",
                        hint="does the kube-controller-manager run? the same command goes on",
                    )
                await self.clock.sleep(_POLL_SECONDS)
        return await apply_one(self.client, document)

    async def amend(self, change: Callable[[Record], Record]) -> None:
        """Write what `change` makes of the record as it is now, whoever else writes it; raises Busy at last."""
        for attempt in range(_ATTEMPTS):
            now = await self.record()
            if now is None or (wanted := change(now)) == now:
                return
            try:
                await self.remember(wanted)
            except Busy:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    async def remember(self, record: Record) -> None:
        """Write the record. Raises Busy when it is no longer the one that was read."""
        body = msgspec.json.encode(record.document())
        try:
            if record.resource_version:
                await self.client.apply(CONFIG_MAPS, self.namespace, NAME, body, field_manager=MANAGER)
            else:
                await self.client.create(CONFIG_MAPS, self.namespace, body, field_manager=MANAGER)
        except (kube.Conflict, kube.AlreadyExists) as error:
            raise Busy(
                "somebody else installs, upgrades or uninstalls isthmus in this cluster at the same time",
                hint="wait until they are done, and try again",
            ) from error

    async def still_read(
        self, gone: Sequence[Name], components: Collection[str], templates: Sequence[Document] = ()
    ) -> frozenset[Name]:
        """Those of `gone` that are settings of `components` with which pods, or those that templates make, may begin
        anew."""
        if not any(component_of(name) in components for name in gone):
            return frozenset()
        return still_read(gone, components, [*await self._pods({PART_OF: "isthmus"}), *templates])

    async def _templates(self, wave: Wave) -> list[Document]:
        """What the workloads of the wave make pods of now."""
        found = [await self.held(name) for name in wave.workloads]
        return [{"metadata": {}, **one["spec"]["template"]} for one in found if one is not None]

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` gives. While the API server is busy, as with a kind that it has just heard of, it is asked again.

        Raises what `read` does, TooMany after half a minute.
        """
        deadline = self.clock.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return await read()
            except kube.TooMany as error:
                if self.clock.monotonic() >= deadline:
                    raise
                await self.clock.sleep(max(error.retry_after, _POLL_SECONDS))

    # --- what goes ---------------------------------------------------------------------------------------------------

    async def remove(self, names: Iterable[Name]) -> list[Installed]:
        """Delete what we have made; what another has made anew under the name is left, and said."""
        done = []
        for name in names:
            held = await self.held(name)
            if held is None:
                continue
            if not removable(held):
                self.say(f"{name.title} is not ours any more: left as it is")
                done.append(Installed(name.kind, name.name, "kept"))
                continue
            try:
                await self.client.delete(name.resource, name.namespace or None, name.name, uid=held["metadata"]["uid"])
            except kube.NotFound:
                continue
            done.append(Installed(name.kind, name.name, "removed"))
        return done

    async def forget(self, record: Record) -> None:
        """Delete the record itself."""
        with contextlib.suppress(kube.NotFound):
            await self.client.delete(
                CONFIG_MAPS, self.namespace, NAME, resource_version=record.resource_version or None
            )

    async def remove_crds(self) -> list[Installed]:
        """Delete the custom resources that we installed, and with them every object of theirs."""
        done = []
        for document in crds():
            name = Name.of(msgspec.yaml.decode(document))
            assert name.resource is CRDS  # noqa: S101 - ours
            done += await self.remove([name])
        return done

    async def remove_namespace(self, record: Record) -> list[Installed]:
        """Delete the namespace if we made it, and nobody else has anything in it."""
        if not record.made_namespace:
            self.say(f"kept: namespace {self.namespace}, which was there before")
            return []
        if found := await self._foreign():
            self.say(f"kept: namespace {self.namespace}, which holds {found} of somebody else")
            return []
        try:
            await self.client.delete(NAMESPACES, None, self.namespace)
        except kube.NotFound:
            return []
        return [Installed("Namespace", self.namespace, "removed")]

    async def _foreign(self) -> str:
        """Something in the namespace that is not of isthmus; empty where there is nothing."""
        for resource in (PODS, *ORDER):
            if not resource.namespaced:
                continue
            async for page in self.client.pages(resource, namespace=self.namespace):
                for item in page.items:
                    held = msgspec.json.decode(item)
                    name = held["metadata"]["name"]
                    if not (leftovers.of_isthmus(name, held) or leftovers.of_namespace(resource.kind, name)):
                        return f"{resource.kind} {name}"
        return ""

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def wait(self, wave: Wave, seconds: float, *, hint: str = "") -> None:
        """Until each workload runs as it was applied; says what is missing when that changes. Raises NotReady, with
        `hint`."""
        deadline = self.clock.monotonic() + seconds
        said = ""
        while True:
            text, why = await self._state(wave.workloads)
            if not text:
                self.say(f"{wave.title}: ready")
                return
            line = f"{wave.title}: {text}" + (f" ({why[0]})" if why else "")
            if line != said:
                self.say(line)
                said = line
            if self.clock.monotonic() >= deadline:
                raise NotReady(
                    f"{wave.title} is not ready after {seconds:g} s: {'; '.join([text, *why])}",
                    hint=hint
                    or f"kubectl -n {self.namespace} get pods -l app.kubernetes.io/part-of=isthmus shows more",
                )
            await self.clock.sleep(_POLL_SECONDS)

    async def _wait_registered(self, wave: Wave, names: Sequence[Name], seconds: float) -> None:
        """Until API servers can call the webhooks, which those that answer arrange. Raises NotReady."""
        deadline, said = self.clock.monotonic() + seconds, ""
        while text := await self._unregistered(wave, names):
            if text != said:
                self.say(f"{wave.title}: {text}")
                said = text
            if self.clock.monotonic() >= deadline:
                raise NotReady(
                    f"{wave.title} is not registered after {seconds:g} s: {text}",
                    hint=f"kubectl -n {self.namespace} logs deployment/isthmus-injector says why",
                )
            await self.clock.sleep(_POLL_SECONDS)

    async def _unregistered(self, wave: Wave, names: Sequence[Name]) -> str:
        workloads = [await self.held(name) for name in wave.workloads]
        if not any(one["spec"].get("replicas", 1) for one in workloads if one is not None):
            return ""  # nobody is wanted there to arrange it
        found = [await self.held(name) for name in names]
        return next((text for one in found if one is not None and (text := unregistered(one))), "")

    async def _state(self, workloads: Sequence[Name]) -> tuple[str, list[str]]:
        """What is missing, and why; both empty when all is there."""
        for name in workloads:
            workload = await self.held(name)
            if workload is None:
                return f"{name.title} is gone", []
            if text := missing(name, workload):
                selector = workload["spec"]["selector"]["matchLabels"]
                return text, reasons(workload, await self._pods(selector))
        return "", []

    async def _pods(self, labels: dict[str, str]) -> list[Document]:
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        return [
            msgspec.json.decode(item)
            async for page in self.client.pages(PODS, namespace=self.namespace, label_selector=selector)
            for item in page.items
        ]
