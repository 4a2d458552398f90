from pathlib import Path

import pytest

from federation.cli.home import Home
from federation.errors import InvalidSettings, NotFound


def test_contexts_are_kept(tmp_path: Path):
    home = Home.load(tmp_path / "home")
    home.with_operator(tmp_path / "op").with_cluster("east", tmp_path / "east").save()
    again = Home.load(tmp_path / "home")
    assert again.operator_directory() == tmp_path / "op"
    assert again.cluster_directory("east") == tmp_path / "east"
    assert (tmp_path / "home" / "contexts.yaml").stat().st_mode & 0o077 == 0
    again.without_cluster("east").save()
    with pytest.raises(NotFound, match="known: none"):
        Home.load(tmp_path / "home").cluster_directory("east")


def test_unknown_keys_are_refused(tmp_path: Path):
    (tmp_path / "contexts.yaml").write_text("operater: x\n")
    with pytest.raises(InvalidSettings, match="operater"):
        Home.load(tmp_path)
