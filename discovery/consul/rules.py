"""Which services of a datacenter are exported, and as what: the rule file.

    exports:
    - service: web-*            # a name of Consul, or a pattern of names
      consumers: west, edge:80  # as in the annotation isthmus.io/consumers
    - {service: db, datacenter: dc1, name: database, ports: {"": 5432}}

The first rule that matches a service decides; what it does not say is said by meta. Pure functions over its text; who
writes it with `fedctl export` changes only the lines of its own rules.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import yaml

from discovery.sources.manifests import consumers, grants
from federation.errors import Conflict, InvalidInput, InvalidSettings, IsthmusError
from federation.model.ids import parse_label, parse_port
from federation.model.service import AppProtocol, Grant

BY_COMMAND = "fedctl"
PROTOCOLS = {
    "tcp": AppProtocol.OPAQUE,
    "http": AppProtocol.HTTP,
    "h2c": AppProtocol.H2C,
    "http2": AppProtocol.H2C,
    "grpc": AppProtocol.GRPC,
}
MAX_BYTES = 1 << 20


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule. Its text in the file may have been written by `fedctl export`: then `by` says so."""

    service: str
    datacenter: str = "*"
    """A name, or a pattern of names."""
    tag: str = ""
    """Only the instances that have this tag."""
    name: str = ""
    """The service's name in the federation; empty: as in Consul."""
    namespace: str = ""
    """Empty: that of the datacenter."""
    ports: dict[str, int] = {}
    """Name of a port ("": the only one, or the main one) → its number in the federation."""
    protocol: str | dict[str, str] = ""
    """Of all ports, or of those that are named: tcp, http, h2c or grpc."""
    consumers: str | None = None
    since: datetime | None = None
    """When it was exported: the older export wins where clusters disagree."""
    by: str = ""

    @property
    def since_ns(self) -> int:
        """0 where it does not say."""
        if self.since is None:
            return 0
        utc = self.since if self.since.tzinfo else self.since.replace(tzinfo=UTC)
        return int(utc.timestamp()) * 1_000_000_000 + utc.microsecond * 1000

    @property
    def grants(self) -> tuple[Grant, ...] | None:
        """None where the rule does not say."""
        return None if self.consumers is None else grants(self.consumers)

    def protocol_of(self, port: str) -> str:
        """What it says of the port of this name; empty for nothing."""
        return self.protocol if isinstance(self.protocol, str) else self.protocol.get(port, "")

    def matches(self, datacenter: str, service: str) -> bool:
        """Whether it is about that service."""
        return fnmatch.fnmatchcase(service, self.service) and fnmatch.fnmatchcase(datacenter, self.datacenter)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    exports: list[Rule] = []


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a file, in order. `lines`: those on which each begins (1 is the first)."""

    rules: tuple[Rule, ...] = ()
    lines: tuple[int, ...] = ()

    def first(self, datacenter: str, service: str) -> Rule | None:
        """The rule that decides about a service."""
        return next((rule for rule in self.rules if rule.matches(datacenter, service)), None)


def parse(data: bytes, *, where: str) -> Rules:
    """The rules that `data` holds; raises InvalidSettings, or what is wrong with a name, naming the line."""
    if len(data) > MAX_BYTES:
        raise InvalidSettings(f"{where} has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        root = yaml.compose(data, Loader=_Loader)
        tree = yaml.load(data, Loader=_Loader)  # noqa: S506 - it is a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark is not None else ""
        why = " ".join(str(getattr(error, "problem", "") or error).split())[:200]
        raise InvalidSettings(f"{where}{at}: no YAML: {why}") from error
    if tree is None:
        return Rules()
    nodes = _items(root)
    lines = tuple(node.start_mark.line + 1 for node in nodes)
    try:
        found = msgspec.convert(tree, _File, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidSettings(f"{where}: {error}", hint="see docs/consul.md") from error
    for rule, line in zip(found.exports, lines, strict=True):
        try:
            _check(rule)
        except IsthmusError as error:
            raise InvalidSettings(f"{where}:{line}: {error}") from None
    return Rules(tuple(found.exports), lines)


def add(data: bytes, rule: Rule, *, where: str) -> bytes:
    """`data` with `rule` before all others, so that no pattern hides it. Raises InvalidSettings, Conflict."""
    before = parse(data, where=where)
    text = _render(rule)
    lines = data.splitlines(keepends=True)
    if before.lines:
        root = yaml.compose(data, Loader=_Loader)
        first = _items(root)[0]
        at = before.lines[0] - 1
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip(b" "))]
        if not lines[at].lstrip(b" ").startswith(b"- ") or first.start_mark.column != len(indent) + 2:
            raise Conflict(f"{where}: its rules are not written one below the other", hint="edit that file")
        new = lines[:at] + [indent + line for line in text.splitlines(keepends=True)] + lines[at:]
    else:
        kept = [line for line in lines if not line.startswith(b"exports:")]
        new = [*kept, b"" if not kept or kept[-1].endswith(b"\n") else b"\n", b"exports:\n", text]
    made = b"".join(new)
    if parse(made, where=where).rules != (rule, *before.rules):
        raise Conflict(f"{where} cannot be added to without changing its other rules", hint="edit that file")
    return made


def remove(data: bytes, index: int, *, where: str) -> bytes:
    """`data` without its rule `index`. Raises InvalidSettings, Conflict."""
    before = parse(data, where=where)
    lines = data.splitlines(keepends=True)
    begin = before.lines[index] - 1
    if index + 1 < len(before.lines):
        end = before.lines[index + 1] - 1
    else:
        root = yaml.compose(data, Loader=_Loader)
        end = _end(lines, _items(root)[index].end_mark.line, begin)
    rest = before.rules[:index] + before.rules[index + 1 :]
    made = b"".join(lines[:begin] + lines[end:])
    if not rest:
        made = made.replace(b"exports:\n", b"exports: []\n", 1)
    try:
        good = parse(made, where=where).rules == rest
    except IsthmusError:
        good = False
    if not good:
        raise Conflict(f"{where}:{begin + 1} cannot be cut out without changing other rules", hint="edit that file")
    return made


def rule_for(datacenter: str, service: str, wanted: tuple[Grant, ...], *, since: datetime) -> Rule:
    """What `fedctl export` writes."""
    return Rule(
        service=_escape(service),
        datacenter=_escape(datacenter),
        consumers=consumers(wanted) if wanted else None,
        since=since.replace(microsecond=0),
        by=BY_COMMAND,
    )


def is_exact(rule: Rule, datacenter: str, service: str) -> bool:
    """Whether the rule is about this one service only."""
    return rule.service == _escape(service) and rule.datacenter == _escape(datacenter)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    pass


def _items(root: yaml.Node | None) -> list[yaml.Node]:
    """The nodes of the rules."""
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if getattr(key, "value", None) == "exports" and isinstance(value, yaml.SequenceNode):
            return list(value.value)
    return []


def _end(lines: Sequence[bytes], end: int, begin: int) -> int:
    """The line after a rule: libyaml says where the next token begins, with comments and empty lines in between."""
    end = min(max(end, begin + 1), len(lines))
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith(b"#")):
        end -= 1
    return end


def _render(rule: Rule) -> bytes:
    tree = msgspec.to_builtins(rule, builtin_types=(datetime,))
    text = yaml.safe_dump([tree], sort_keys=False, allow_unicode=True, width=10_000)
    return text.encode()


def _check(rule: Rule) -> None:
    if not rule.service:
        raise InvalidInput("service is empty", hint='a name of Consul or a pattern; "*" is all of them')
    if rule.name:
        parse_label(rule.name, what="name")
    if rule.namespace:
        parse_label(rule.namespace, what="namespace")
    for name, number in rule.ports.items():
        if name:
            parse_label(name, what="port")
        parse_port(number, what=f"port {name!r}:")
    said = [rule.protocol] if isinstance(rule.protocol, str) else list(rule.protocol.values())
    for protocol in said:
        if protocol and protocol not in PROTOCOLS:
            raise InvalidInput(f"protocol {protocol[:20]!r} is not known", hint="tcp, http, h2c or grpc")
    if rule.consumers is not None:
        grants(rule.consumers)


def _escape(name: str) -> str:
    """A pattern that only this name matches."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
