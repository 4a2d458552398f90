"""A key of one's own and what an agent answers to it: makes the key and the request, checks the reply.

Arrives: an identity to ask for, then the agent's SignReply. Leaves: a SignRequest, then a Grant. Run as a program it
does so in a process of its own (federation.trust.apart): a gateway or a sidecar renews twice an hour, and would carry
the libraries for that all the time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from federation.aio.clock import Clock, SystemClock
from federation.errors import Denied, IsthmusError
from federation.model.ids import SpiffeId
from federation.model.wire import bundle_from_pb
from federation.proto.v1 import identity_pb2 as pb
from federation.trust.apart import Outcome, dump, failure
from federation.trust.bundle import check_bundle
from federation.trust.csr import make_csr
from federation.trust.framing import frame_from
from federation.trust.keys import certificate_from_der, check_public_key, key_to_pem, new_key, public_der
from federation.trust.svid import Svid, utc
from federation.trust.verify import verify_chain
from federation.trust.workload import Grant


class Petition:
    """One request with a new key. `request` is the SignRequest, serialised."""

    def __init__(self, namespace: str, account: str, *, clock: Clock) -> None:
        self._namespace, self._account, self._clock = namespace, account, clock
        self._key = new_key()
        self.csr = make_csr(self._key)
        self.request = pb.SignRequest(namespace=namespace, account=account, csr=self.csr).SerializeToString()

    async def grant(self, reply: bytes) -> Grant:
        """As `check`."""
        return self.check(reply)

    def check(self, reply: bytes) -> Grant:
        """What a SignReply without an error gives, verified before it is believed. Raises Denied, InvalidInput."""
        message = pb.SignReply.FromString(reply)
        bundle = bundle_from_pb(message.bundle)
        check_bundle(bundle)
        chain = tuple(message.chain)
        spiffe_id = verify_chain(chain, {bundle.trust_domain: bundle}, now=utc(self._clock))
        if spiffe_id != SpiffeId.workload(bundle.trust_domain, self._namespace, self._account):
            raise Denied(
                f"the agent issued {spiffe_id} where {self._namespace}/{self._account} was asked for",
                hint="namespace and account in the settings must be what the agent gives to this process",
                code="svid_invalid",
            )
        leaf = certificate_from_der(chain[0])
        if public_der(check_public_key(leaf.public_key())) != public_der(self._key.public_key()):
            raise Denied("the agent issued a certificate for another key", code="svid_invalid")
        svid = Svid(
            spiffe_id=spiffe_id,
            chain=chain,
            key_pem=key_to_pem(self._key),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )
        return Grant(
            svid=svid,
            bundle=bundle,
            agent_address=message.agent_address,
            federation=message.federation,
            cluster=message.cluster,
            agent_addresses=tuple(message.agent_addresses),
            enrolment_addresses=tuple(message.enrolment_addresses),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the request, read the reply, write the Outcome; ends without a word when the caller has gone."""
    namespace, account = sys.argv[1:] if arguments is None else arguments
    into, out = sys.stdin.buffer, sys.stdout.buffer
    petition = Petition(namespace, account, clock=SystemClock())
    out.write(len(petition.request).to_bytes(4, "big") + petition.request)
    out.flush()
    reply = frame_from(into)
    if not reply:
        return
    try:
        outcome = Outcome(grant=petition.check(reply))
    except IsthmusError as error:
        outcome = failure(error)
    out.write(dump(outcome))
    out.flush()


if __name__ == "__main__":
    main()
