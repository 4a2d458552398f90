"""docs/files.md: its snippets are manifests that mean what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from discovery.sources.objects import Objects
from discovery.sources.parse import parse
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Grant, Locality

PAGE = (Path(__file__).parents[3] / "docs" / "files.md").read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_snippets_are_a_cluster() -> None:
    first, second = SNIPPETS
    objects = Objects(locality=Locality("eu", "eu-1"))
    objects.put("echo.yaml", parse(first.encode()).manifests, mtime_ns=0)
    built = objects.build()
    assert built.problems == ()
    echo = built.exports[ServiceName("shop", "echo")]
    assert [(p.port, p.app) for p in echo.ports] == [(80, AppProtocol.HTTP), (9100, AppProtocol.OPAQUE)]
    assert [(e.address, e.ready, e.locality.zone) for e in echo.endpoints] == [
        ("10.0.0.11", True, "eu-1a"),
        ("10.0.0.12", False, "eu-1b"),
    ]
    assert echo.exported_at_ns == 1_768_467_600_000_000_000

    objects.put("echo.yaml", parse((first.rpartition("---\n")[0] + "---\n" + second).encode()).manifests, mtime_ns=0)
    echo = objects.build().exports[ServiceName("shop", "echo")]
    assert echo.grants == (Grant("edge", (80,)), Grant("west"))
    assert echo.labels == {"tier": "front"}


def test_every_problem_that_the_page_names_exists() -> None:
    sources = "".join(p.read_text() for p in (Path(__file__).parents[3] / "discovery").rglob("*.py"))
    for code in re.findall(r"\(`([a-z_]+)`\)", PAGE):
        assert f'"{code}"' in sources, code
