"""What is ours in an API server: the label, the field manager and, of imports, the epoch of a lease together."""

from __future__ import annotations

import msgspec
import pytest

from discovery.departure import Metadata, is_announced, is_import, is_stamped

LABEL = {"app.kubernetes.io/managed-by": "isthmus"}
EPOCH = {"isthmus.io/epoch": "7"}
BY_US = [{"manager": "isthmus", "operation": "Apply"}]
STATUS = [{"manager": "isthmus", "operation": "Apply", "subresource": "status"}]
BY_OTHERS = [{"manager": "kubectl", "operation": "Update"}]


def meta(labels: object = None, annotations: object = None, fields: object = None, name: str = "echo") -> Metadata:
    tree = {"name": name, "labels": labels, "annotations": annotations, "managedFields": fields}
    return msgspec.convert(tree, Metadata)


@pytest.mark.parametrize(
    ("found", "stamped", "imported"),
    [
        (meta(LABEL, EPOCH, BY_US), True, True),
        (meta(LABEL, EPOCH, [*BY_OTHERS, *BY_US]), True, True),  # somebody has edited it, too
        (meta(LABEL, EPOCH, BY_OTHERS), False, False),  # a copy
        (meta(LABEL, EPOCH, STATUS), False, False),
        (meta(LABEL, None, BY_US), False, False),
        (meta(None, EPOCH, BY_US), False, False),
        (meta(None, {**EPOCH, "isthmus.io/applied": "x"}, BY_US), False, True),  # the label was taken away
        (meta({"app.kubernetes.io/managed-by": "helm"}, EPOCH, BY_US), False, False),
        (meta(), False, False),
    ],
)
def test_what_was_written_for_imports(found: Metadata, stamped: bool, imported: bool) -> None:
    assert is_stamped(found) is stamped
    assert is_import(found) is imported


def test_leases_of_gateways_and_conditions() -> None:
    assert is_announced(meta(LABEL, None, BY_US, "isthmus-gateway-a"))
    assert is_announced(meta(LABEL, None, BY_US, "isthmus-vms-0123456789abcdef"))
    assert not is_announced(meta(LABEL, None, BY_US, "isthmus-agent"))  # it goes last
    assert not is_announced(meta(LABEL, None, BY_OTHERS, "isthmus-gateway-a"))
    assert meta(fields=STATUS).written(subresource="status")
    assert not meta(fields=BY_US).written(subresource="status")
