"""Which roots this cluster believes of its peers: pinned by an operator, followed only along signed successors.

The registry carries bundles and nothing more; what it says is believed when it matches a pin (federation.trust.bundle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from discovery.state import read_or_none, set_aside
from federation.aio.clock import Clock
from federation.aio.files import write_state
from federation.errors import Denied, InvalidInput
from federation.log import Logger
from federation.model.cluster import Bundle
from federation.model.ids import parse_label, trust_domain_of
from federation.trust.bundle import check_pin, fingerprint, parse_fingerprint

FRESH_SECONDS = 30.0
"""A pin this young is not dropped with a link: the operator may have set it for the link's successor."""


class Pin(msgspec.Struct, frozen=True):
    """What is believed of one peer: the fingerprint, and the bundle that was accepted last."""

    trust_domain: str
    fingerprint: str
    pinned_ns: int
    sequence: int = 0
    roots: tuple[bytes, ...] = ()
    signature: bytes = b""

    @property
    def bundle(self) -> Bundle | None:
        if not self.roots:
            return None
        return Bundle(
            trust_domain=self.trust_domain, sequence=self.sequence, roots=self.roots, signature=self.signature
        )


_Pins = dict[str, Pin]


class Pins:
    """The pins of one cluster, by peer, on disk at `path` before they count."""

    def __init__(self, path: Path, *, cluster: str, federation: str, clock: Clock, log: Logger) -> None:
        """A damaged file is put aside: peers are then unpinned and shown so, nothing is trusted by accident."""
        self._path, self._cluster, self._federation = path, cluster, federation
        self._clock, self._log = clock, log
        self.on_change: Callable[[str, Pin | None], None] = lambda *_: None
        """Called with the peer whose pin was changed here, and the pin (None: it was dropped)."""
        self._pins: _Pins = {}
        data = read_or_none(path, log)
        if data is not None:
            try:
                self._pins = msgspec.json.decode(data, type=_Pins)
            except msgspec.MsgspecError as error:
                set_aside(path, log, error)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pins)

    def get(self, cluster: str) -> Pin | None:
        return self._pins.get(cluster)

    def pin(self, cluster: str, trust_domain: str, text: str) -> None:
        """An operator says what the root of `cluster` is. Raises InvalidInput, InvalidName, StorageFailed."""
        parse_label(cluster, what="cluster")
        if cluster == self._cluster:
            raise InvalidInput(f"{cluster} needs no pin of itself", code="self_link")
        expected = trust_domain_of(cluster, self._federation)
        if trust_domain != expected:
            raise InvalidInput(f"the trust domain of {cluster} is {expected}, not {trust_domain[:80]!r}")
        parse_fingerprint(text)
        old = self._pins.get(cluster)
        keep = old is not None and old.fingerprint == text
        now = self._clock.wall_ns()
        pin = msgspec.structs.replace(old, pinned_ns=now) if old is not None and keep else Pin(trust_domain, text, now)
        self._save({**self._pins, cluster: pin})
        self._log.info("peer pinned", peer=cluster, fingerprint=text)

    def unpin(self, cluster: str) -> bool:
        """Forget a peer; False where there was no pin. Raises StorageFailed."""
        if cluster not in self._pins:
            return False
        self._save({name: pin for name, pin in self._pins.items() if name != cluster})
        self._log.info("peer unpinned", peer=cluster)
        return True

    def link_cut(self, cluster: str) -> bool:
        """The registry says that the link is no more: so is the trust, unless the operator has just renewed it."""
        pin = self._pins.get(cluster)
        if pin is None or self._clock.wall_ns() - pin.pinned_ns < FRESH_SECONDS * 1e9:
            return False
        return self.unpin(cluster)

    def accept(self, cluster: str, bundle: Bundle) -> Bundle:
        """The bundle to verify `cluster` with, given what the registry carries. Raises Denied, StorageFailed.

        A bundle that does not follow from the one before is refused, and `believed` stays.
        """
        pin = self._pins.get(cluster)
        if pin is None:
            raise Denied(
                f"{cluster} is linked and not pinned",
                hint=f"run `fedctl link {self._cluster} {cluster}` where both agents can be reached",
                code="unpinned",
            )
        if bundle.trust_domain != pin.trust_domain:
            raise Denied(
                f"the bundle of {cluster} is of another trust domain, {bundle.trust_domain[:80]!r}",
                code="bundle_invalid",
            )
        previous = pin.bundle
        if previous is not None and (previous.sequence, previous.roots) == (bundle.sequence, bundle.roots):
            return bundle
        check_pin(bundle, pin.fingerprint, previous)
        accepted = msgspec.structs.replace(
            pin,
            fingerprint=fingerprint(bundle),
            sequence=bundle.sequence,
            roots=bundle.roots,
            signature=bundle.signature,
        )
        self._save({**self._pins, cluster: accepted})
        self._log.info("bundle accepted", peer=cluster, sequence=bundle.sequence, fingerprint=accepted.fingerprint)
        return bundle

    def believed(self, cluster: str) -> Bundle | None:
        """The bundle that was accepted last."""
        pin = self._pins.get(cluster)
        return None if pin is None else pin.bundle

    def all(self) -> Mapping[str, Pin]:
        """Every pin by its peer."""
        return dict(self._pins)

    def adopt(self, pins: Mapping[str, Pin]) -> set[str]:
        """Another replica of the agent has these: hold exactly them. Returns whose changed. Raises StorageFailed."""
        before, after = self._pins, dict(pins)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if changed:
            write_state(self._path, msgspec.json.encode(after))
            self._pins = after
        return changed

    def _save(self, pins: _Pins) -> None:
        before = self._pins
        write_state(self._path, msgspec.json.encode(pins))
        self._pins = pins
        for name in before.keys() | pins.keys():
            if before.get(name) != pins.get(name):
                self.on_change(name, pins.get(name))
