"""What is asked of an API server for each write, and what is taken away that apply leaves."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from discovery.kube.errors import AlreadyExists, Conflict
from discovery.kube.types import Condition
from discovery.mcs.apply import Applier, NotRepaired, resource_of
from discovery.mcs.conditions import ExportFacts
from discovery.mcs.desired import Desired, LocalGateway, Site, derived_name, derived_service, service_import, slices
from discovery.mcs.held import Held, Kind
from discovery.mcs.plan import HeldExport, Verb, Write, plan_export
from federation.model.ids import ServiceName

ECHO = ServiceName("shop", "echo")
SITE = Site(gateways=(LocalGateway("10.1.0.1"),))
V = "v1beta1"


def create(wanted: Any) -> Write:
    return Write(
        verb=Verb.CREATE,
        kind=wanted.kind,
        namespace=wanted.namespace,
        name=wanted.name,
        body=wanted.body,
        wanted=wanted,
    )


def change(wanted: Any, held: Held) -> Write:
    return dataclasses.replace(create(wanted), verb=Verb.APPLY, uid=held.uid, resource_version=held.resource_version)


async def made(server: Any, wanted: Any) -> Held:
    held = await Applier(server).do(create(wanted), V)
    assert held is not None
    return held


async def test_what_is_new_is_created_and_takes_nothing_from_anybody(server: Any, imported: Any) -> None:
    wanted = service_import(imported(), SITE)
    held = await made(server, wanted)
    assert held.facts.covers(wanted.facts)
    with pytest.raises(AlreadyExists):
        await made(server, wanted)
    assert server.writes() == ["create ServiceImport", "create ServiceImport"]


async def test_what_exists_is_written_in_the_version_that_was_seen(server: Any, imported: Any) -> None:
    held = await made(server, service_import(imported(), SITE))
    server.edit("ServiceImport", "echo", lambda found: None)
    with pytest.raises(Conflict):
        await Applier(server).do(change(service_import(imported(labels={"a": "1"}), SITE), held), V)


async def test_what_others_added_goes_by_an_update_and_their_labels_stay(server: Any, imported: Any) -> None:
    wanted = service_import(imported(), SITE)
    await made(server, wanted)
    extra: dict[str, Any] = {"trafficDistribution": "PreferClose"}

    def keep(verb: str, kind: str, body: dict[str, Any]) -> None:
        if verb == "apply":
            body["spec"] |= extra  # as apply does with fields of others

    def edit(found: dict[str, Any]) -> None:
        found["spec"] |= extra
        found["metadata"]["labels"]["mine"] = "1"

    server.edit("ServiceImport", "echo", edit)
    server.fail = keep
    held = await Applier(server).look(Kind.IMPORT, "shop", "echo", V)
    assert held is not None
    again = await Applier(server).do(change(wanted, held), V)
    assert again is not None
    assert again.facts.covers(wanted.facts)
    assert server.writes()[-2:] == ["apply ServiceImport", "update ServiceImport"]
    found = server.of("ServiceImport")["echo"]
    assert "trafficDistribution" not in found["spec"]
    assert found["metadata"]["labels"]["mine"] == "1"


async def test_labels_of_the_creation_that_are_no_longer_wanted_go(server: Any, imported: Any) -> None:
    held = await made(server, service_import(imported(labels={"old": "1", "kept": "1"}), SITE))
    applier = Applier(server)
    await applier.do(change(service_import(imported(labels={"kept": "1"}), SITE), held), V)
    labels = server.of("ServiceImport")["echo"]["metadata"]["labels"]
    assert "old" not in labels
    assert labels["kept"] == "1"
    assert applier.writes == 2


async def test_who_writes_what_we_write_is_named(server: Any, imported: Any) -> None:
    """An admission plugin, for one: what it answers is never what was wanted."""
    desired = Desired(name=ECHO, import_=imported(), ports={80: 10_080})
    (wanted,) = slices(imported(), desired, SITE, owner="u")

    server.fail = lambda verb, kind, body: body.update(endpoints=[])
    with pytest.raises(NotRepaired, match="managedFields"):
        await made(server, wanted)
    assert server.writes() == ["create EndpointSlice", "update EndpointSlice"]


async def test_a_derived_service_keeps_its_address(server: Any, imported: Any) -> None:
    desired = Desired(name=ECHO, import_=imported(), ports={80: 10_080})
    wanted = derived_service(imported(), desired, SITE, owner="")
    held = await made(server, wanted)
    assert held.ips == ("10.96.0.1",)
    assert held.ports == {80: 10_080}
    server.edit("Service", derived_name(ECHO), lambda found: found["spec"].update(externalIPs=["192.0.2.1"]))
    seen = await Applier(server).look(Kind.SERVICE, "shop", derived_name(ECHO), V)
    assert seen is not None
    assert not seen.facts.covers(wanted.facts)  # type: ignore[union-attr]


async def test_what_is_gone_already_is_deleted(server: Any) -> None:
    write = Write(verb=Verb.DELETE, kind=Kind.SERVICE, namespace="shop", name="x", uid="u", resource_version="1")
    assert await Applier(server).do(write, V) is None


async def test_the_status_of_an_export_is_answered_as_it_stands(server: Any) -> None:
    server.objects[("ServiceExport", "shop", "echo")] = {
        "kind": "ServiceExport",
        "metadata": {"name": "echo", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
    }
    held = HeldExport(name=ECHO, uid="u", resource_version="7", generation=1, conditions={})
    write = plan_export(held, ExportFacts(published=True), "multicluster.x-k8s.io/v1beta1", now="2026-01-01T00:00:00Z")
    assert write is not None
    written = await Applier(server).export_status(write, V)
    assert written.status is not None
    assert {c.type for c in written.status.conditions or ()} == {"Conflict", "Ready", "Valid"}
    assert all(isinstance(c, Condition) for c in written.status.conditions or ())
    assert json.loads(await server.get(resource_of(Kind.EXPORT, V), "shop", "echo"))["status"]
