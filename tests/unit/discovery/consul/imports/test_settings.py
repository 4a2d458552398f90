"""The block `consul.write`."""

from __future__ import annotations

import msgspec
import pytest

from discovery.consul.imports.settings import WriteSettings
from federation.errors import InvalidSettings
from federation.model.ids import ServiceName


def test_the_defaults_can_be_used_and_write_nothing():
    settings = WriteSettings()
    settings.check()
    assert not settings.enabled
    assert settings.node_of("dc1") == "isthmus-dc1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "{namespace}"}, "consul.write.name"),
        ({"name": "{service"}, "consul.write.name"),
        ({"name": "{service!r}"}, "consul.write.name"),
        ({"name": "{service:>80}"}, "consul.write.name"),
        ({"name": "{service}.{cluster}"}, "consul.write.name"),
        ({"node": "a b"}, "consul.write.node"),
        ({"services": ("db",)}, "consul.write.services"),
        ({"services": ("shop/d*",)}, "consul.write.services"),
        ({"rate": 0}, "consul.write.rate"),
        ({"rate": float("nan")}, "consul.write.rate"),
        ({"ttl": 5}, "consul.write.ttl"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_key(fields, message):
    with pytest.raises(InvalidSettings, match=message):
        msgspec.structs.replace(WriteSettings(), **fields).check()


@pytest.mark.parametrize(
    ("patterns", "name", "covered"),
    [
        (("*/*",), "shop/db", True),
        (("shop/*",), "shop/db", True),
        (("shop/*",), "web/db", False),
        (("*/db", "web/api"), "web/api", True),
        ((), "shop/db", False),
    ],
)
def test_which_imports_are_written(patterns, name, covered):
    settings = WriteSettings(services=patterns)
    settings.check()
    assert settings.covers(ServiceName.parse(name)) is covered
