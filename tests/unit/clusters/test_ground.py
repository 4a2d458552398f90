from pathlib import Path

import yaml

from clusters import manifests
from clusters.ground import Folders

COPY = manifests.Copy(address="127.0.0.1", port=80)


def kinds(path: Path) -> list[str]:
    return [d["kind"] for d in yaml.safe_load_all(path.read_text())]


async def test_a_folder_has_two_files_for_a_service_because_its_endpoints_change_more_often(tmp_path: Path):
    ground = Folders(lambda cluster: tmp_path / cluster)
    await ground.write("east", *manifests.exported("shop", "echo", port=80, app="http", copy=COPY))
    assert kinds(tmp_path / "east" / "echo.yaml") == ["Service", "ServiceExport"]
    assert kinds(tmp_path / "east" / "echo-endpoints.yaml") == ["EndpointSlice"]


async def test_what_was_prepared_is_written_when_it_is_called(tmp_path: Path):
    ground = Folders(lambda cluster: tmp_path / cluster)
    await ground.write("east", *manifests.exported("shop", "echo", port=80, app="http", copy=COPY))
    path = tmp_path / "east" / "echo-endpoints.yaml"
    before = path.read_bytes()
    async with ground.pen("east") as pen:
        write = await pen.prepared(manifests.slice_("shop", "echo", app="http", copies=[COPY, COPY]))
        assert path.read_bytes() == before
        await write()
    (found,) = yaml.safe_load_all(path.read_text())
    assert len(found["endpoints"]) == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["echo-endpoints.yaml", "echo.yaml"]
