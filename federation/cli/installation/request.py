"""What a person asked of an installation, and what that means beside what the cluster remembers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from discovery.kube.objects import PART_OF
from federation.cli.chart import values as trees
from federation.cli.chart.source import Chart, Release
from federation.cli.chart.values import Values
from federation.cli.installation.leftovers import JOIN
from federation.cli.installation.record import COMPONENTS, Record, switched
from federation.errors import Conflict
from federation.model.ids import parse_domain, parse_label

HIDDEN = "<hidden: --show-secrets shows it>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The options of one command."""

    values: Values = field(default_factory=dict)
    cluster: str = ""
    federation: str = ""
    image: str = ""
    sets: Sequence[str] = ()
    files: Sequence[Path] = ()

    def tree(self) -> Values:
        """As values; an option stands above --set, and that above --values. Raises InvalidValues, InvalidName."""
        options: Values = {}
        if self.cluster:
            options["cluster"] = parse_label(self.cluster, what="--cluster")
        if self.federation:
            options["federation"] = parse_domain(self.federation, what="--federation")
        if self.image:
            options["image"] = image(self.image)
        return trees.gather(trees.layers(self.files, self.sets), self.values, options)


def image(text: str) -> Values:
    """REPOSITORY[:TAG][@DIGEST] as values; what is not said is the chart's."""
    repository, _, digest = text.partition("@")
    before, slash, last = repository.rpartition("/")
    name, _, tag = last.partition(":")
    return {"repository": f"{before}{slash}{name}", "tag": tag, "digest": digest}


def check_same(record: Record, given: Mapping[str, Any]) -> None:
    """Raises Conflict when the cluster is something else in the federation already."""
    for key, what, code in (
        ("cluster", "cluster", "cluster_renamed"),
        ("federation", "federation", "other_federation"),
    ):
        held, wanted = record.values.get(key), given.get(key)
        if held and wanted and held != wanted:
            raise Conflict(
                f"this is {what} {held}, and cannot become {wanted}",
                hint=f"leave with `fedctl cluster leave` and `fedctl uninstall all --purge` first, or install {held}",
                code=code,
            )


def installed(record: Record | None, component: str, given: Mapping[str, Any]) -> Values:
    """The values with the component turned on."""
    before = record.values if record is not None else {}
    return trees.gather(before, given, switched([component], on=True))


def only(values: Mapping[str, Any], component: str) -> Values:
    """The same with nothing but the component turned on."""
    others = [name for name in COMPONENTS if name != component]
    return trees.gather(values, switched(others, on=False), switched([component], on=True))


def documents(
    chart: Chart, values: Mapping[str, Any], release: Release, *, where: str = "values"
) -> list[dict[str, Any]]:
    """Everything that the chart makes of the values; raises InvalidValues, TemplateError."""
    texts = chart.render(chart.values(values, where=where), release).values()
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def join_secret(token: str, namespace: str, *, shown: bool = True) -> dict[str, Any]:
    """The Secret that the agent reads its join token from."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": JOIN,
            "namespace": namespace,
            "labels": {
                PART_OF: "isthmus",
                "app.kubernetes.io/component": "agent",
                "app.kubernetes.io/managed-by": "isthmus",
            },
        },
        "type": "Opaque",
        "stringData": {"token": token if shown else HIDDEN},
    }


def text_of(parts: Iterable[str]) -> str:
    """Manifests as one file."""
    return "\n---\n".join(part.strip() for part in parts)
