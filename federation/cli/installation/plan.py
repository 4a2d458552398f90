"""What is applied to a cluster and what goes, from what is wanted and what is known to be there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from discovery.kube.objects import MANAGER, Name, helm_release, in_order, installed_by_us, rank
from federation.cli.installation.record import COMPONENTS
from federation.errors import Conflict

COMPONENT = "app.kubernetes.io/component"
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wave:
    """Documents that are applied together; `workloads` of them are waited for before the next wave."""

    title: str
    documents: tuple[Document, ...]
    workloads: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    waves: tuple[Wave, ...]
    gone: tuple[Name, ...]
    """No longer wanted, in the order in which they go."""
    kept: frozenset[Name] = frozenset()
    """Made before, and to stay although nobody wants them now."""

    @property
    def names(self) -> frozenset[Name]:
        """What is applied."""
        return frozenset(Name.of(one) for wave in self.waves for one in wave.documents)


def plan(documents: Iterable[Document], *, held: Iterable[Name], keep: Iterable[Name] = ()) -> Plan:
    """`held`: what the installation has made before. `keep`: those of them that stay although nobody wants them now.

    What belongs to no component comes first, then one component after the other in the order of an upgrade.
    """
    documents = in_order(documents)
    order = list(COMPONENTS.values())
    titles = {key: title for title, key in COMPONENTS.items()}

    def component(document: Document) -> int:
        label = (document["metadata"].get("labels") or {}).get(COMPONENT, "")
        return order.index(label) if label in order else -1

    waves = []
    for number in sorted({component(one) for one in documents}):
        group = tuple(one for one in documents if component(one) == number)
        workloads = tuple(Name.of(one) for one in group if one["kind"] in ("Deployment", "StatefulSet"))
        waves.append(Wave(titles[order[number]] if number >= 0 else "", group, workloads))
    held, wanted = set(held), {Name.of(one) for one in documents}
    kept = (held - wanted) & set(keep)
    gone = sorted(held - wanted - kept, key=lambda name: (-rank(name), name))
    return Plan(tuple(waves), tuple(gone), frozenset(kept))


def check_owner(name: Name, held: Document) -> None:
    """Raises Conflict when what is there under the name is not for `fedctl install` to change."""
    if installed_by_us(held):
        return
    release = helm_release(held)
    if release:
        raise Conflict(
            f"{name.title} belongs to the helm release {release}",
            hint="go on with helm, or uninstall the release first",
            code="managed_by_helm",
        )
    managers = sorted({entry.get("manager", "") for entry in held["metadata"].get("managedFields") or ()} - {""})
    raise Conflict(
        f"{name.title} is there, and was not made by fedctl (written by {', '.join(managers) or 'somebody else'})",
        hint="see what it is; when it is not needed, delete it and install again",
        code="not_ours",
    )


def removable(held: Document) -> bool:
    """Whether an object that is no longer wanted is still what we made: else it is left, and said."""
    return installed_by_us(held) and not helm_release(held)


def titles(names: Sequence[Name]) -> str:
    """For people."""
    return ", ".join(name.title for name in names)


__all__ = ["MANAGER", "Plan", "Wave", "check_owner", "plan", "removable", "titles"]
