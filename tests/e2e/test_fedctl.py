"""Numbered steps: two clusters federated by nothing but fedctl and the entry points, as README.md tells it.

The tests of this file are one story and run in their order on one federation.
"""

from __future__ import annotations

import asyncio

import pytest
import yaml

from clusters.processes import ProcessFederation
from clusters.processstage import greeting
from clusters.waiting import START
from federation.errors import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.story]


def join_words(federation: ProcessFederation, name: str, token: str) -> list[str]:
    place = federation.places[name]
    return [
        *("cluster", "join", name, "--token", token),
        *("--directory", str(place.agent), "--manifests", str(place.manifests)),
        *("--listen", f"{place.address}:{place.agent_port}"),
        *("--metrics", f"127.0.0.1:{place.metrics['agent']}"),
        *("--region", place.spec.locality.region, "--zone", place.spec.locality.zone),
    ]


def test_01_a_registry_is_made_and_served(federation: ProcessFederation, fedctl):
    directory = str(federation.directory / "registry")
    where = federation.registry_address
    ports = federation.registry_ports
    words = [
        *("registry", "init", directory, "--federation", "test.isthmus", "--single-machine"),
        *("--listen", f"{where}:{ports['listen']}", "--enrolment", f"{where}:{ports['enrolment']}"),
        *("--metrics", f"127.0.0.1:{ports['metrics']}"),
    ]
    fedctl.ok(*words)
    again = fedctl(*words, "-o", "json")
    assert (again.status, again.error["code"]) == (4, "already_exists")

    unreachable = fedctl("get", "clusters", "-o", "json")
    assert (unreachable.status, unreachable.error["code"]) == (6, "unavailable")

    federation.start_registry()
    asyncio.run(federation.wait_ready("registry"))
    assert fedctl.ok("get", "clusters", "-o", "json").json == []


def test_02_clusters_join_with_single_use_tokens(federation: ProcessFederation, fedctl):
    for name in ("east", "west"):
        asyncio.run(federation.write_manifests(name))
        for kind in ("http", "tcp"):
            federation.start_workload(name, kind)
    token = fedctl.ok("token", "issue", "east", "-o", "json").json["token"]
    foreign = fedctl(*join_words(federation, "west", token), "-o", "json")
    assert foreign.status in (2, 5), foreign.err
    assert not (federation.places["west"].agent / "settings.yaml").exists()

    fedctl.ok(*join_words(federation, "east", token))
    token = fedctl.ok("token", "issue", "west").out.strip()
    fedctl.ok("token", "revoke", "west")
    revoked = fedctl(*join_words(federation, "west", token), "-o", "json")
    assert (revoked.status, revoked.error["code"].startswith("token")) == (5, True), revoked.err
    garbage = fedctl(*join_words(federation, "west", token[:-5]), "-o", "json")
    assert garbage.status == 2, garbage.err

    token = fedctl.ok("token", "issue", "west").out.strip()
    fedctl.ok(*join_words(federation, "west", token))
    assert [c["name"] for c in fedctl.ok("get", "clusters", "-o", "json").json] == ["east", "west"]
    duplicate = fedctl("token", "issue", "west", "-o", "json")
    assert (duplicate.status, duplicate.error["code"]) == (4, "cluster_exists"), duplicate.err


def test_03_nothing_is_visible_without_a_link(federation: ProcessFederation, fedctl, eventually):
    for name in ("east", "west"):
        federation.start_agent(name)
    asyncio.run(federation.wait_ready("east-agent", "west-agent"))
    for name in ("east", "west"):
        federation.start_gateway(name)
        federation.start_sidecar(name)
    asyncio.run(federation.wait_ready(*federation.running))
    eventually(lambda: len(fedctl.ok("get", "services", "-o", "json").json) == 4, what="four exports")
    eventually(lambda: fedctl.ok("get", "endpoints", "--from", "east", "-o", "json").json, what="east's own")
    seen = fedctl.ok("get", "endpoints", "--from", "east", "-o", "json").json
    assert {row["cluster"] for row in seen} == {"east"}


def test_04_a_link_makes_exports_visible(federation: ProcessFederation, fedctl, eventually):
    unknown = fedctl("link", "east", "moon", "-o", "json")
    assert (unknown.status, unknown.error["code"]) == (3, "unknown_cluster")
    fedctl.ok("link", "east", "west")
    fedctl.ok("status", "--wait", "--timeout", str(START))
    (link,) = fedctl.ok("get", "links", "-o", "json").json
    assert (link["a"], link["b"], link["state"]) == ("east", "west", "live")
    assert len(fedctl.ok("get", "gateways", "-o", "json").json) == 2
    synced = [("east", "", "synced"), ("west", "", "synced")]

    def sidecars() -> list[tuple[str, str, str]]:
        rows = fedctl.ok("get", "sidecars", "-o", "json").json
        return [(one["cluster"], one["skew"], one["sync"]) for one in rows]

    eventually(lambda: sidecars() == synced, what="two sidecars that are up to date")
    found = fedctl.ok("resolve", "echo.shop.global", "--from", "east", "-o", "json").json
    assert [b["cluster"] for b in found["backends"]] == ["east", "west"]
    assert found["ips"]


def test_05_a_preview_says_who_would_see_what(federation: ProcessFederation, fedctl):
    manifests = federation.places["west"].manifests
    before = {path.name: path.read_bytes() for path in manifests.iterdir()}

    lost = fedctl.ok("unexport", "shop/kv", "--from", "west", "--dry-run", "-o", "json").json
    (east,) = lost["consumers"]
    assert (lost["action"], lost["would_change"], lost["complete"]) == ("unexport", True, True)
    assert (east["cluster"], east["change"], east["rule"], east["others"]) == ("east", "loses", "withdrawn", ["east"])
    told = fedctl.ok("unexport", "shop/kv", "--from", "west", "--dry-run")
    assert "still from east" in told.out
    assert "would be withdrawn" in told.err

    # What somebody wrote by hand is not changed by a command: neither then nor now.
    foreign = fedctl("export", "shop/kv", "--from", "west", "--to", "moon", "--dry-run", "-o", "json")
    assert (foreign.status, foreign.error["code"]) == (7, "conflict")
    same = fedctl.ok("export", "shop/kv", "--from", "west", "--dry-run")
    assert "already exported like this" in same.err
    (row,) = [line for line in same.out.splitlines() if line.startswith("east")]
    assert "the link shows all" in row
    assert "ClusterSetIP" in row
    tree = yaml.safe_load(fedctl.ok("export", "shop/kv", "--from", "west", "--dry-run", "-o", "yaml").out)
    assert tree["consumers"][0]["ports"][0]["rule"] == "link"
    assert tree["consumers"][0]["namespace"] == "exists"

    missing = fedctl("export", "shop/absent", "--from", "west", "--dry-run", "-o", "json")
    assert (missing.status, missing.error["code"]) == (3, "no_service")
    long = fedctl("export", f"shop/{'s' * 64}", "--from", "west", "--dry-run", "-o", "json")
    assert (long.status, long.error["code"]) == (2, "invalid_name")
    assert {path.name: path.read_bytes() for path in manifests.iterdir()} == before


def test_06_exports_can_be_withdrawn_and_granted(federation: ProcessFederation, fedctl, eventually):
    missing = fedctl("export", "shop/absent", "--cluster", "west", "-o", "json")
    assert missing.status == 3, missing.err
    withdrawn = fedctl.ok("unexport", "shop/kv", "--cluster", "west", "-o", "json").json
    assert withdrawn["changed"] is True

    def clusters_of_kv() -> list[str]:
        rows = fedctl.ok("get", "endpoints", "--from", "east", "--service", "shop/kv", "-o", "json").json
        return sorted({row["cluster"] for row in rows})

    eventually(lambda: clusters_of_kv() == ["east"], what="the withdrawal")
    words = ("export", "shop/kv", "--cluster", "west", "--to", "east", "--to", "moon:9")
    told = fedctl.ok(*words, "--dry-run", "-o", "json").json
    assert {c["cluster"]: (c["sees"], c["rule"], c["change"]) for c in told["consumers"]} == {
        "east": (True, "export_grant", "gains"),
        "moon": (False, "no_link", ""),
    }
    assert told["stray_ports"] == [{"consumer": "moon", "port": 9}]
    assert told["conflicts"] == []
    assert clusters_of_kv() == ["east"]
    fedctl.ok(*words)
    eventually(lambda: clusters_of_kv() == ["east", "west"], what="the export")


def test_07_names_are_answered_and_called(federation: ProcessFederation, fedctl, eventually):
    from clusters.names import lookup

    place = federation.places["east"]
    (address,) = lookup(place.address, place.dns_port, "kv.shop.west.global")

    def greeted() -> str:
        try:
            return greeting(address, 9000)
        except Unavailable:
            return ""

    assert eventually(greeted, what="a greeting") == "west"
    assert lookup(place.address, place.dns_port, "absent.shop.global") == []


def test_08_status_tells_the_truth_about_what_is_gone(federation: ProcessFederation, fedctl, eventually):
    federation.kill("west-gateway")
    done = eventually(lambda: (s := fedctl("status", "-o", "json")).status == 6 and s, what="a finding")
    assert any("west" in f["subject"] for f in done.json["findings"]), done.out
    federation.restart("west-gateway")
    asyncio.run(federation.wait_ready("west-gateway"))
    fedctl.ok("status", "--wait", "--timeout", str(START))


def test_09_a_malformed_manifest_is_named_and_the_last_good_state_stays(
    federation: ProcessFederation, fedctl, eventually
):
    bad = federation.places["east"].manifests / "bad.yaml"
    bad.write_text("apiVersion: v1\nkind: Service\nmetadata: [\n")
    done = eventually(lambda: (s := fedctl("status", "-o", "json")).status == 6 and s, what="the problem")
    assert any("bad.yaml:" in f["subject"] for f in done.json["findings"]), done.out
    assert len(fedctl.ok("get", "services", "--cluster", "east", "-o", "json").json) == 2

    def told() -> bool:
        clusters = {c["name"]: c["problems"] for c in fedctl.ok("get", "clusters", "-o", "json").json}
        return any("bad.yaml:" in p["subject"] for p in clusters["east"]) and not clusters["west"]

    eventually(told, what="the problem at the registry")
    bad.unlink()
    fedctl.ok("status", "--wait", "--timeout", str(START))


def test_10_an_unlinked_cluster_sees_nothing(federation: ProcessFederation, fedctl, eventually):
    fedctl.ok("unlink", "east", "west")
    again = fedctl("unlink", "east", "west", "-o", "json")
    assert (again.status, again.error["code"]) == (3, "link_unknown")

    def clusters_seen() -> set[str]:
        return {row["cluster"] for row in fedctl.ok("get", "endpoints", "--from", "east", "-o", "json").json}

    eventually(lambda: clusters_seen() == {"east"}, what="the cut")
    # Its agent has never heard of it any more; the registry has.
    fedctl.ok("unexport", "shop/kv", "--cluster", "east")

    def told() -> dict[str, str]:
        return dict(fedctl("resolve", "kv.shop.global", "--from", "east", "-o", "json").error or {})

    eventually(lambda: told().get("code") == "not_found", what="the end of the import")
    assert told()["message"].endswith("; west exports it and is not linked to east")
    federation.kill("registry")
    assert "only the registry knows" in told()["hint"]
    federation.restart("registry")
    asyncio.run(federation.wait_ready("registry"))


def test_11_a_cluster_leaves(federation: ProcessFederation, fedctl):
    fedctl.ok("cluster", "leave", "west")
    assert [c["name"] for c in fedctl.ok("get", "clusters", "-o", "json").json] == ["east"]
    again = fedctl("cluster", "leave", "west", "-o", "json")
    assert (again.status, again.error["code"]) == (3, "cluster_unknown")
