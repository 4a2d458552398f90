"""plan(wanted, held): what has to be written so that the instances of one import are as they should be.

Pure. What belongs to one instance stays together, so that no instance is seen without its check; each operation names
the version that was seen, so that what somebody else wrote meanwhile is looked at before it is overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from discovery.consul.imports.desired import CRITICAL, Instance
from discovery.consul.imports.held import Held
from federation.model.ids import ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class PutInstance:
    """`index` 0: there is none yet."""

    instance: Instance
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutCheck:
    """The check of an instance that is there, or is put before it. `index` 0: there is none yet."""

    id: str
    service: str
    status: str
    output: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DropInstance:
    """Its checks go with it."""

    id: str
    service: str
    index: int


Operation = PutInstance | PutCheck | DropInstance


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done about one instance of the import `name`, in this order."""

    name: ServiceName
    operations: tuple[Operation, ...]


def plan(
    name: ServiceName,
    wanted: Mapping[str, Instance],
    held: Mapping[str, Held],
    *,
    kept: Collection[str] = (),
    absent: Collection[str] = (),
    deletable: bool = True,
) -> tuple[Change, ...]:
    """`held`: what is registered of this import, and whatever else has an id that is wanted.

    `kept`: the names in Consul that the import has, also while there is no gateway; `absent`: gateways that went away
    and may come back soon: what leads to them turns critical and stays. Not `deletable`: it is not known yet what a
    source cluster offers, so nothing goes.
    """
    made = [_wanted(one, held.get(id_)) for id_, one in sorted(wanted.items())]
    for id_, there in sorted(held.items()):
        if id_ in wanted or not there.ours or there.name != name:
            continue
        if there.gateway in absent and there.service in kept:
            made.append(_check(there, CRITICAL, f"the gateway {there.gateway} is gone"))
        elif deletable:
            made.append((DropInstance(id=id_, service=there.service, index=there.index),))
    return tuple(Change(name, operations) for operations in made if operations)


def foreign(wanted: Collection[str], held: Mapping[str, Held]) -> str | None:
    """The id of an instance that is to be written and is somebody else's."""
    return next((id_ for id_ in sorted(wanted) if id_ in held and not held[id_].ours), None)


def _wanted(one: Instance, there: Held | None) -> tuple[Operation, ...]:
    new = PutCheck(id=one.id, service=one.service, status=one.status, output=one.output)
    if there is None:
        return PutInstance(instance=one), new
    if not there.ours:
        return ()
    if there.service != one.service:  # an instance cannot be renamed: its check would keep the old name
        return DropInstance(id=one.id, service=there.service, index=there.index), PutInstance(instance=one), new
    if there.says != one.says:
        return PutInstance(instance=one, index=there.index), *_check(there, one.status, one.output)
    return _check(there, one.status, one.output)


def _check(there: Held, status: str, output: str) -> tuple[Operation, ...]:
    if there.check is not None and (there.check.status, there.check.output) == (status, output):
        return ()
    index = there.check.index if there.check is not None else 0
    return (PutCheck(id=there.id, service=there.service, status=status, output=output, index=index),)
