from __future__ import annotations

import pytest

from discovery.pods.identity import Pod, dns_names


@pytest.mark.parametrize(
    ("namespace", "account", "names"),
    [
        ("isthmus-system", "injector", ("isthmus-injector.isthmus-system.svc",)),
        ("isthmus-system", "gateway", ()),
        ("shop", "injector", ()),
    ],
)
def test_only_the_injector_has_the_name_of_a_service(namespace: str, account: str, names: tuple[str, ...]) -> None:
    assert dns_names(Pod(namespace, account, "pod-1", "uid-1")) == names
