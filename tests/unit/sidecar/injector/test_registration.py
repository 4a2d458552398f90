from __future__ import annotations

from typing import Any

import pytest

from federation.aio.clock import FakeClock
from federation.errors import Conflict
from federation.log import get
from sidecar.injector.registration import Registration, bundle_of, plan, roots_of

OURS, OLD, OTHER = b"ours", b"old", b"other"


def configuration(*bundles: str | None) -> dict[str, Any]:
    return {
        "webhooks": [
            {"name": f"w{number}.example", "clientConfig": {} if bundle is None else {"caBundle": bundle}}
            for number, bundle in enumerate(bundles)
        ]
    }


def written(operations: list[Any]) -> dict[str, tuple[bytes, ...]]:
    return {o["path"]: roots_of(o["value"]) for o in operations if o["op"] == "add"}


@pytest.mark.parametrize(
    ("bundles", "kept", "expected"),
    [
        ([], (), {}),
        ([bundle_of([OURS])], (), {}),
        ([bundle_of([OURS, OLD])], (OLD,), {}),
        ([None], (), {0: (OURS,)}),
        ([""], (), {0: (OURS,)}),
        (["not base64!"], (), {0: (OURS,)}),
        ([bundle_of([OLD])], (OLD,), {0: (OURS, OLD)}),
        ([bundle_of([OLD])], (), {0: (OURS,)}),
        ([bundle_of([OURS, OLD])], (), {0: (OURS,)}),
        ([bundle_of([OURS]), None, bundle_of([OTHER])], (OTHER,), {1: (OURS,), 2: (OURS, OTHER)}),
    ],
)
def test_what_is_patched(
    bundles: list[str | None], kept: tuple[bytes, ...], expected: dict[int, tuple[bytes, ...]]
) -> None:
    operations = plan(configuration(*bundles), [OURS], kept=kept)
    assert written(operations) == {f"/webhooks/{n}/clientConfig/caBundle": roots for n, roots in expected.items()}
    tests = [o for o in operations if o["op"] == "test"]
    assert [o["value"] for o in tests] == [f"w{n}.example" for n in expected]


class FakeApi:
    """One configuration, and the patches of caBundles that it was given."""

    def __init__(self, *bundles: str | None) -> None:
        self.found = configuration(*bundles)
        self.patches = 0
        self.refuse = False

    async def ask(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        assert path == "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/isthmus-injector"
        if method == "PATCH":
            if self.refuse:
                raise Conflict("the object was changed")
            self.patches += 1
            for operation in body:
                _, _, number, *_ = operation["path"].split("/")
                if operation["op"] == "add":
                    self.found["webhooks"][int(number)]["clientConfig"]["caBundle"] = operation["value"]
        return self.found

    def roots(self) -> list[tuple[bytes, ...]]:
        return [roots_of(w["clientConfig"].get("caBundle", "")) for w in self.found["webhooks"]]


async def test_a_root_that_was_replaced_stays_for_the_life_of_a_certificate() -> None:
    """Another replica is still known by it."""
    api, clock = FakeApi(None, bundle_of([OLD])), FakeClock()
    registration = Registration(api, "isthmus-injector", clock=clock, log=get("test"))  # type: ignore[arg-type]
    await registration.look([OURS], life=3600)
    assert api.roots() == [(OURS,), (OURS, OLD)]
    clock.advance(3599)
    await registration.look([OURS], life=3600)
    assert (api.roots()[1], api.patches) == ((OURS, OLD), 1)
    clock.advance(1)
    await registration.look([OURS], life=3600)
    assert api.roots() == [(OURS,), (OURS,)]
    await registration.look([OURS], life=3600)
    assert api.patches == 2


async def test_a_configuration_that_was_changed_meanwhile_is_looked_at_again() -> None:
    api = FakeApi(None)
    api.refuse = True
    registration = Registration(api, "isthmus-injector", clock=FakeClock(), log=get("test"))  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        await registration.look([OURS], life=3600)
    api.refuse = False
    await registration.look([OURS], life=3600)
    assert api.roots() == [(OURS,)]
