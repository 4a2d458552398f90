from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from federation.errors import InvalidInput, Unavailable
from sidecar.injector.admission import Answer, Outcome, answer
from sidecar.injector.options import ClusterDns, Options, Way

OPTIONS = Options(
    image="isthmus:0.1.0",
    trust_domain="east.test.isthmus",
    enrolment=("10.96.7.1:7446",),
    roots="PEM\n",
    dns=ClusterDns(servers=("10.96.0.10",)),
    version="0.1.0",
)
POD = {"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}


def review(pod: Any = POD, **request: Any) -> bytes:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    made = {"uid": "u-1", "kind": kind, "operation": "CREATE", "namespace": "shop", "object": pod, **request}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": made}).encode()


def asked(body: bytes, way: Way | None = None, options: Callable[[], Options] = lambda: OPTIONS) -> Answer:
    return answer(body, options, way=way)


def response(given: Answer) -> dict[str, Any]:
    made = given.review()
    assert (made["apiVersion"], made["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert made["response"]["uid"] == "u-1"
    found: dict[str, Any] = made["response"]
    return found


def test_a_pod_is_injected_by_a_patch() -> None:
    given = asked(review())
    found = response(given)
    assert (given.outcome, given.way, found["allowed"]) == (Outcome.INJECTED, Way.REDIRECT, True)
    assert found["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(found["patch"]))
    assert {"op": "add", "path": "/spec/dnsPolicy", "value": "None"} in patch
    assert "warnings" not in found
    assert given.told == ()


def test_the_path_says_another_way_than_the_settings_and_the_pod_another_one_still() -> None:
    assert asked(review(), Way.LOOPBACK).way is Way.LOOPBACK
    pod = {**POD, "metadata": {"annotations": {"isthmus.io/way": "gateway"}}}
    assert asked(review(pod), Way.LOOPBACK).way is Way.GATEWAY


@pytest.mark.parametrize(
    ("usual", "asked_for", "hinted"),
    [
        (Way.REDIRECT, "", True),
        (Way.REDIRECT, "loopback", False),
        (Way.REDIRECT, "redirect", False),
        (Way.REDIRECT, "gateway", False),
        (Way.LOOPBACK, "", False),
    ],
)
def test_who_gets_another_way_for_its_namespaces_sake_reads_so(usual: Way, asked_for: str, hinted: bool) -> None:
    """As a warning of the answer; nothing is wrong, so there is no Event."""
    pod = {**POD, "metadata": {"annotations": {"isthmus.io/way": asked_for}}} if asked_for else POD
    given = asked(review(pod), Way.LOOPBACK, lambda: replace(OPTIONS, way=usual))
    assert given.way is Way(asked_for or "loopback")
    warnings = response(given).get("warnings", [])
    assert [text for text in warnings if "because Pod Security refuses" in text] == warnings
    assert (len(warnings) == 1) == hinted
    assert given.told == ()


def test_a_bad_annotation_is_refused_with_one_line() -> None:
    given = asked(review({**POD, "metadata": {"annotations": {"isthmus.io/way": "sideways"}}}))
    found = response(given)
    assert given.outcome is Outcome.REFUSED
    assert found["allowed"] is False
    assert found["status"]["message"] == (
        "isthmus: annotation isthmus.io/way is 'sideways' (write redirect or loopback or gateway)"
    )
    assert "patch" not in found


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"operation": "UPDATE"}, "no pod that is being created"),
        ({"kind": {"kind": "Binding"}}, "no pod that is being created"),
        ({"namespace": "kube-system"}, "nothing is injected in namespace kube-system"),
    ],
)
def test_what_is_not_for_us_passes(changes: dict[str, Any], text: str) -> None:
    given = asked(review(**changes))
    assert given.outcome is Outcome.UNCHANGED
    assert text in given.text
    assert response(given)["allowed"] is True
    assert "patch" not in response(given)


def unavailable() -> Options:
    raise Unavailable("it is not known where the agent is")


def broken() -> Options:
    raise RuntimeError("two\nlines")


@pytest.mark.parametrize(
    ("pod", "options", "why"),
    [
        (POD, unavailable, "it is not known where the agent is"),
        (POD, broken, "RuntimeError: two lines"),
        (None, lambda: OPTIONS, "the review has no pod"),
        ({"spec": {"containers": "none"}}, lambda: OPTIONS, "AttributeError"),
        ({"spec": 7}, lambda: OPTIONS, "AttributeError"),
    ],
)
def test_a_fault_of_ours_admits_the_pod_with_a_warning_and_an_event(
    pod: Any, options: Callable[[], Options], why: str
) -> None:
    given = asked(review(pod), options=options)
    found = response(given)
    assert (given.outcome, found["allowed"]) == (Outcome.FAILED, True)
    assert "patch" not in found
    assert why in found["warnings"][0]
    assert found["warnings"][0].startswith("isthmus: the pod is admitted without a sidecar: ")
    assert given.told == given.warnings


def test_a_dry_run_tells_nobody_else() -> None:
    given = asked(review(dryRun=True), options=broken)
    assert response(given)["warnings"]
    assert given.told == ()


def test_a_warning_is_no_longer_than_kubectl_shows() -> None:
    def endless() -> Options:
        raise Unavailable("x" * 5000)

    (warning,) = response(asked(review(), options=endless))["warnings"]
    assert len(warning) == 250


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"apiVersion": "admission.k8s.io/v1"}',
        review().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
        review(uid=7),
    ],
)
def test_what_is_no_review(body: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(body)
    assert caught.value.error_code == "no_review"
