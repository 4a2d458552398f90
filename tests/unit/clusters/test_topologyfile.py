"""Topologies by name, by number and from files; what is wrong with one is said in a line that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clusters import topologyfile
from clusters.kind.ranges import assign
from clusters.topology import ECHO, KV, ClusterSpec, NodeSpec, Offer
from clusters.topologyfile import NAMED, check, find, load, numbered
from federation.errors import InvalidInput
from federation.model.service import Locality

WHOLE = """
name: lab
federation: lab.isthmus
registry: west
flat: false
links: [[east, west]]
clusters:
  - name: east
    region: eu
    zone: eu-1
    workers: 2
    pods: 10.10.0.0/16
    services: 10.110.0.0/16
    offers: [{name: db, port: 5432, app: tcp}]
  - {name: west, consul: true}
  - {name: edge, region: us, nat: true}
"""


def write(folder: Path, text: str, name: str = "t.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    found = load(write(tmp_path, WHOLE))
    assert (found.name, found.federation, found.home, found.links) == (
        "lab",
        "lab.isthmus",
        "west",
        (("east", "west"),),
    )
    assert found.clusters == (
        ClusterSpec(
            name="east",
            locality=Locality("eu", "eu-1"),
            offers=(Offer("db", 5432, "tcp"),),
            nodes=NodeSpec(workers=2, pods="10.10.0.0/16", services="10.110.0.0/16"),
        ),
        ClusterSpec(name="west", locality=Locality(), consul=True),
        ClusterSpec(name="edge", locality=Locality("us", ""), nodes=NodeSpec(nat=True)),
    )


def test_a_small_file_has_the_files_name_and_every_link(tmp_path: Path) -> None:
    found = find(str(write(tmp_path, "clusters: [{name: a}, {name: b}, {name: c}]", "Small.yaml")))
    assert (found.name, found.home) == ("small", "a")
    assert found.links == (("a", "b"), ("a", "c"), ("b", "c"))
    assert found.clusters[0].offers == (ECHO, KV)


@pytest.mark.parametrize("name", NAMED)
def test_those_with_names(name: str) -> None:
    assert check(find(name)).name == name


def test_numbers() -> None:
    assert numbered(5).names == ["east", "west", "edge", "c4", "c5"]
    assert len({numbered(2).name, numbered(3).name, numbered(2, overlap=True).name}) == 3
    check(numbered(topologyfile.MOST))


@pytest.mark.parametrize("count", [0, -1, 17])
def test_numbers_out_of_range(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"{count} clusters are out of range"):
        numbered(count)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters: [{name: a}, {name: a}]", "2 clusters are named a"),
        ("clusters: []", "0 clusters"),
        ("clusters: [{name: a, pod: 10.0.0.0/8}]", "unknown field `pod`"),
        ("cluster: []", "unknown field `cluster`"),
        ("name: x", "missing required field `clusters`"),
        ("clusters: [{name: A_b}]", "cluster 'A_b' is no DNS label"),
        ("name: A b\nclusters: [{name: a}]", "topology 'A b' is no DNS label"),
        ("federation: no domain\nclusters: [{name: a}]", "no DNS label"),
        ("clusters: [{name: a, pods: 10.10.0.1/16}]", "cluster a: pods: '10.10.0.1/16' is no network"),
        ("clusters: [{name: a, services: fd00::/64}]", "cluster a: services: fd00::/64 is of IPv6"),
        ("clusters: [{name: a, workers: 9}]", "cluster a: workers is 9"),
        ("clusters: [{name: a, workers: two}]", "Expected `int`"),
        ("clusters: [{name: a}]\nlinks: [[a, b]]", "link a - b: there is no cluster b"),
        ("clusters: [{name: a}]\nlinks: [[a, a]]", "not linked with itself"),
        ("clusters: [{name: a}, {name: b}]\nlinks: [[a, b], [b, a]]", "link b - a is there twice"),
        ("clusters: [{name: a}]\nlinks: some", "links"),
        ("clusters: [{name: a}]\nregistry: b", "registry: there is no cluster b"),
        ("clusters: [{name: a, nat: true}, {name: b}]", "the registry's cluster a is behind NAT"),
        ("clusters: [{name: a}]\nflat: true\noverlap: true", "flat and overlap exclude each other"),
        ("clusters: [{name: a, offers: [{name: x, port: 0}]}]", "cluster a: x: port 0 is out of range"),
        ("clusters: [{name: a, offers: [{name: x, port: 1}, {name: x, port: 2}]}]", "x is offered 2 times"),
        ("clusters: [", "no YAML"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        load(path)
    assert said in str(caught.value)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_neither_name_nor_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no topology 'tow-kind'") as caught:
        find("tow-kind")
    assert "two-kind" in caught.value.hint
    with pytest.raises(InvalidInput, match="cannot read"):
        find(str(tmp_path / "absent.yaml"))


def test_the_file_of_the_documentation(tmp_path: Path) -> None:
    """docs/harness.md: the example is a topology, and the ranges that it states are those that its clusters get."""
    text = (Path(__file__).parents[3] / "docs" / "harness.md").read_text()
    (block,) = re.findall(r"```yaml\n# topology\n(.*?)```", text, re.DOTALL)
    found = load(write(tmp_path, block))
    assert found.names == ["east", "west", "edge"]
    assert [spec.nodes.nat for spec in found.clusters] == [False, False, True]
    ranges = assign(found)
    assert (str(ranges["east"].pods), str(ranges["east"].services)) == ("10.10.0.0/16", "10.110.0.0/16")
    for name in NAMED:
        assert f"`{name}`" in text
