from pathlib import Path

import yaml

from clusters import manifests


def test_what_is_written_are_ordinary_manifests(tmp_path: Path):
    path = tmp_path / "m" / "echo.yaml"
    copy = manifests.Copy(address="127.0.0.1", port=80, zone="eu-1")
    manifests.write(
        path,
        manifests.service("shop", "echo", port=8080, app="http"),
        manifests.export("shop", "echo"),
        manifests.slice_("shop", "echo", app="http", copies=[copy]),
    )
    service, export, piece = yaml.safe_load_all(path.read_text())
    assert [d["kind"] for d in (service, export, piece)] == ["Service", "ServiceExport", "EndpointSlice"]
    assert piece["metadata"]["labels"]["kubernetes.io/service-name"] == "echo"
    assert piece["endpoints"] == [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}, "zone": "eu-1"}]
    assert [p.name for p in path.parent.iterdir()] == ["echo.yaml"]
