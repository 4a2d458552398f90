"""Virtual machines under kills: no two keys win one token, removed stays removed, what was acknowledged is not lost."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from discovery.vms import plans
from discovery.vms.plans import Invitation, Invited, Picture
from federation.errors import AlreadyExists, Denied, NotFound

NAMES = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["k1", "k2", "k3"])
KILL = st.sampled_from(["never", "before the write", "before the reply"])
LIFE = 10


class Vms(RuleBasedStateMachine):
    """An agent that is killed between any two steps; the disk is what a write has left."""

    @initialize()
    def start(self) -> None:
        self.disk = plans.dump(Picture())
        self.memory = Picture()
        self.now = 0
        self.issued: dict[str, list[tuple[bytes, int]]] = {}
        self.won: dict[bytes, str] = {}  # token → the key that was acknowledged
        self.holds: dict[str, tuple[str, bytes]] = {}  # name → key and token, acknowledged and not removed since
        self.gone: set[str] = set()  # removed, acknowledged, and not invited since

    def _write(self, picture: Picture, kill: str) -> bool:
        """Whether the caller heard of it."""
        if kill != "before the write":
            self.disk = plans.dump(picture)
            self.memory = picture
        if kill != "never":
            self.memory = plans.load(self.disk)
        return kill == "never"

    @rule(name=NAMES, kill=KILL)
    def invite(self, name: str, kill: str) -> None:
        token = f"{name}{self.now}{len(self.issued.get(name, ()))}".encode()
        asked = Invited(name, "shop", "web")
        try:
            picture, _ = plans.issue(self.memory, asked, Invitation(token, self.now + LIFE), now_ns=self.now)
        except AlreadyExists:
            assert self.memory.vms[name].joined
            return
        if self._write(picture, kill) or kill == "before the reply":
            self.gone.discard(name)
        if kill == "never":
            self.issued.setdefault(name, []).append((token, self.now + LIFE))

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), key=KEYS, kill=KILL)
    def redeem(self, data: st.DataObject, key: str, kill: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.issued)))
        token, expires = data.draw(st.sampled_from(self.issued[name]))
        first = (
            token not in self.won
            and not self.memory.vms.get(name, plans.Vm(name=name, namespace="shop", account="web", created_ns=0)).joined
        )
        try:
            picture, vm = plans.redeem(self.memory, name, token, key, now_ns=self.now)
        except Denied:
            assert self.holds.get(name) != (key, token), "the lost reply has to be answered again"
            return
        assert name not in self.gone, "a machine that was removed came back by an old token"
        assert self.won.get(token, key) == key, "a second key won"
        assert not first or self.now < expires, "a token worked after its time"
        if self._write(picture, kill):
            assert vm.key == key
            self.won[token], self.holds[name] = key, (key, token)

    def _holder(self, name: str, otherwise: str = "") -> str:
        return self.holds[name][0] if name in self.holds else otherwise

    @rule(name=NAMES, key=KEYS)
    def renew(self, name: str, key: str) -> None:
        try:
            plans.renew(self.memory, name, key)
        except Denied:
            assert self._holder(name) != key, "who has joined is refused"
        else:
            assert name not in self.gone
            assert self._holder(name, key) == key

    @rule(name=NAMES, kill=KILL)
    def remove(self, name: str, kill: str) -> None:
        try:
            picture, _ = plans.remove(self.memory, name, now_ns=self.now)
        except NotFound:
            assert name not in self.holds
            return
        heard = self._write(picture, kill)
        if kill != "before the write":
            self.holds.pop(name, None)
            self.gone.add(name)
        assert heard == (kill == "never")

    @rule(by=st.integers(1, LIFE))
    def wait(self, by: int) -> None:
        self.now += by

    @rule()
    def kill(self) -> None:
        self.memory = plans.load(self.disk)

    @invariant()
    def nothing_is_lost(self) -> None:
        for name, (key, _) in getattr(self, "holds", {}).items():
            assert plans.load(self.disk).vms[name].key == key
        for name in getattr(self, "gone", ()):
            assert name not in self.memory.vms
            assert name in self.memory.removed


TestVms = Vms.TestCase
TestVms.settings = settings(max_examples=60, stateful_step_count=30)
