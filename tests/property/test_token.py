"""Join tokens under Hypothesis: whatever is encoded comes back, whatever else is refused with one error."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InvalidInput
from federation.trust.token import PREFIX, VM_PREFIX, JoinToken, VmToken

tokens = st.builds(
    JoinToken,
    registry=st.tuples(st.from_regex(r"[a-z0-9.-]{1,60}", fullmatch=True), st.integers(1, 65535)).map(
        lambda pair: f"{pair[0]}:{pair[1]}"
    ),
    ca_fingerprint=st.binary(min_size=32, max_size=32).map(lambda b: f"sha256:{b.hex()}"),
    cluster=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    secret=st.binary(min_size=32, max_size=32),
)


@given(tokens)
def test_there_and_back(token: JoinToken) -> None:
    assert JoinToken.parse(token.encode()) == token


@given(tokens)
def test_there_and_back_for_a_machine(token: JoinToken) -> None:
    made = VmToken(agent=token.registry, fingerprint=token.ca_fingerprint, vm=token.cluster, secret=token.secret)
    assert VmToken.parse(made.encode()) == made


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: VM_PREFIX + base64.urlsafe_b64encode(b).decode()))
def test_anything_else_is_one_clear_error_for_a_machine(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        VmToken.parse(text)
    assert caught.value.error_code == "token_malformed"


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: PREFIX + base64.urlsafe_b64encode(b).decode()))
def test_anything_else_is_one_clear_error(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        JoinToken.parse(text)
    assert caught.value.error_code == "token_malformed"
