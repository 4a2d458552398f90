from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from federation.cli.home import Home, Place, RegistryPlace
from federation.errors import InvalidSettings, NotFound


def test_contexts_are_kept(tmp_path: Path):
    home = Home.load(tmp_path / "home")
    home.with_operator(tmp_path / "op").with_cluster("east", tmp_path / "east").save()
    again = Home.load(tmp_path / "home")
    assert again.operator_directory() == tmp_path / "op"
    assert again.cluster("east") == tmp_path / "east"
    assert (tmp_path / "home" / "contexts.yaml").stat().st_mode & 0o077 == 0
    again.without_cluster("east").save()
    with pytest.raises(NotFound, match="known: none"):
        Home.load(tmp_path / "home").cluster("east")


def test_unknown_keys_are_refused(tmp_path: Path):
    (tmp_path / "contexts.yaml").write_text("operater: x\n")
    with pytest.raises(InvalidSettings, match="operater"):
        Home.load(tmp_path)


def test_a_cluster_in_pods_and_a_registry_in_one_are_kept(tmp_path: Path):
    place = Place(kubeconfig="/k", context="kind-a", namespace="mesh")
    registry = RegistryPlace(kubeconfig="/k", context="kind-a", bridge=True)
    home = Home.load(tmp_path).with_operator(tmp_path / "op", registry=registry)
    home.with_cluster("east", place).with_cluster("west", tmp_path / "west").save()
    again = Home.load(tmp_path)
    assert again.clusters == {"east": place, "west": tmp_path / "west"}
    assert again.registry == registry
    # a credential of another registry is not fetched from the pod of the former
    assert again.with_operator(tmp_path / "other").registry is None


def test_two_commands_at_once_lose_nothing_of_each_other(tmp_path: Path):
    names = [f"c{n}" for n in range(16)]
    slow = Home.load(tmp_path)  # read before anybody has written

    def use(name: str) -> None:
        slow.update(lambda now: now.with_cluster(name, tmp_path / name))

    with ThreadPoolExecutor() as threads:
        list(threads.map(use, names))
    assert sorted(Home.load(tmp_path).clusters) == sorted(names)
