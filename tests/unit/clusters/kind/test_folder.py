"""The harness's files: all of them can be lost, and one command at a time changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.kind.folder import Folder, base
from clusters.topologyfile import NAMED
from federation.errors import Conflict, StorageFailed


def test_where(tmp_path: Path) -> None:
    assert base({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "isthmus" / "clusters"
    assert base({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == Path("/h/.local/state/isthmus/clusters")


@pytest.mark.parametrize("name", NAMED)
def test_a_topology_comes_back(tmp_path: Path, name: str) -> None:
    folder = Folder(name, where=tmp_path)
    assert folder.load() is None
    folder.make()
    folder.save(NAMED[name])
    assert folder.load() == NAMED[name]


def test_a_damaged_one_is_as_lost(tmp_path: Path) -> None:
    folder = Folder("t", where=tmp_path)
    folder.make()
    folder.save(NAMED["two-kind"])
    path = folder.path / "topology"
    path.write_bytes(path.read_bytes()[:-3])
    assert folder.load() is None


def test_which_server_a_kubeconfig_names(tmp_path: Path) -> None:
    folder = Folder("t", where=tmp_path)
    assert folder.server("east") == ""
    folder.make()
    folder.kubeconfig("east").write_text("clusters:\n- cluster:\n    server: https://127.0.0.1:41000\n")
    assert folder.server("east") == "https://127.0.0.1:41000"


def test_one_at_a_time(tmp_path: Path) -> None:
    with Folder("t", where=tmp_path).locked():
        with (
            pytest.raises(Conflict, match=r"another command is at work on isthmus\.t"),
            Folder("t", where=tmp_path).locked(),
        ):
            pass
        with Folder("other", where=tmp_path).locked():
            pass
    with Folder("t", where=tmp_path).locked():
        pass


def test_where_the_disk_takes_no_lock(tmp_path: Path) -> None:
    """Whoever removes goes on without one."""
    (tmp_path / "file").write_bytes(b"")
    folder = Folder("t", where=tmp_path / "file")
    with pytest.raises(StorageFailed, match=r"cannot write to .*/isthmus\.t: Not a directory"), folder.locked():
        pass
    went_on = False
    with folder.locked(anyhow=True):
        went_on = True
    assert went_on


def test_who_removes_waits_for_others_where_there_is_a_lock(tmp_path: Path) -> None:
    with (
        Folder("t", where=tmp_path).locked(),
        pytest.raises(Conflict, match="another command"),
        Folder("t", where=tmp_path).locked(anyhow=True),
    ):
        pass
