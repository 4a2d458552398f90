"""The bootstrap of an Envoy of ours, as it is: compared with golden YAML (Envoy validates it in its unit test)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format

from federation.envoy.bootstrap import bootstrap

GOLDEN = Path(__file__).with_name("bootstrap.yaml")


def test_the_bootstrap_is_the_golden_one(request: pytest.FixtureRequest) -> None:
    message = bootstrap(
        node_id="east-gateway",
        cluster="east",
        ads_path=Path("/state/ads.sock"),
        admin_path=Path("/state/admin.sock"),
        region="eu",
        zone="eu-1",
    )
    fields = json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))
    text = yaml.safe_dump(fields, sort_keys=True, width=120)
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text
