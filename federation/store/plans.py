"""The decisions of every write as pure functions: picture in, plan out, or a refusal. No I/O, no clock."""

from __future__ import annotations

from dataclasses import replace

from federation.errors import AlreadyExists, Conflict, Denied, NotFound
from federation.model.cluster import Bundle
from federation.model.record import MAX_FLOOR
from federation.store.base import KEEP_DEPARTED, KEEP_TOKENS_NS, Departed, LinkEntry, Member, Token
from federation.store.picture import Picture, Plan


def redeemable(held: Token | None, cluster: str, now_ns: int) -> Token:
    """`held` if `cluster` could join with it now; raises Denied (token_*)."""
    if held is None:
        raise Denied("this join token is not known here", hint="ask the operator for a new one", code="token_unknown")
    if held.cluster != cluster:
        raise Denied(
            f"this join token is for cluster {held.cluster}, not for {cluster}",
            hint="each cluster needs a token of its own",
            code="token_foreign",
        )
    if held.redeemed_by:
        raise Denied(
            "this join token has been used",
            hint="if that was not you, tell the operator; ask for a new token",
            code="token_used",
        )
    if held.revoked:
        raise Denied("this join token was revoked", hint="ask the operator for a new one", code="token_revoked")
    if held.expires_ns <= now_ns:
        raise Denied("this join token has expired", hint="ask the operator for a new one", code="token_expired")
    return held


def enrol(picture: Picture, token: bytes, member: Member, fingerprint: str) -> Plan[Member]:
    """Redeem and become a member; see `federation.store.base.Clusters.enrol`."""
    held = picture.tokens.get(token)
    present = picture.members.get(member.name)
    mine = held is not None and held.cluster == member.name and held.redeemed_by == fingerprint
    if held is not None and mine and not held.revoked and present is not None:
        return Plan(result=present)  # the reply was lost; nothing is left to do
    held = redeemable(held, member.name, member.joined_ns)
    if present is not None:
        raise taken(member.name)
    before = picture.departed.get(member.name)
    if before is not None:
        member = replace(member, epoch=max(member.epoch, before.epoch))
    return Plan(
        result=member,
        members={member.name: member},
        tokens={token: replace(held, redeemed_by=fingerprint)},
        departed={member.name: None} if before is not None else {},
    )


def remove_member(picture: Picture, name: str, now_ns: int) -> Plan[tuple[LinkEntry, ...]]:
    floor = min(_member(picture, name).epoch, MAX_FLOOR)
    departed: dict[str, Departed | None] = {name: Departed(name=name, epoch=floor, left_ns=now_ns)}
    by_age = sorted(picture.departed.values(), key=lambda d: (d.left_ns, d.name))
    departed.update((d.name, None) for d in by_age[: max(0, len(by_age) + 1 - KEEP_DEPARTED)])
    cut = tuple(e for e in picture.links.values() if name in (e.link.a, e.link.b))
    return Plan(
        result=cut,
        members={name: None},
        links={e.link.name: None for e in cut},
        tokens=_revoked([t for t in picture.tokens.values() if t.cluster == name and not t.revoked]),  # retries too
        departed=departed,
    )


def set_bundle(picture: Picture, name: str, bundle: Bundle) -> Plan[None]:
    member = _member(picture, name)
    if bundle == member.bundle:
        return Plan(result=None)
    if bundle.sequence <= member.bundle.sequence:
        raise Conflict(
            f"bundle {bundle.sequence} of {bundle.trust_domain} is not newer than {member.bundle.sequence}",
            code="bundle_rollback",
        )
    return Plan(result=None, members={name: replace(member, bundle=bundle)})


def raise_epoch(picture: Picture, name: str, epoch: int) -> Plan[None]:
    left = picture.departed.get(name)
    if left is not None:  # what it reported last is written after it has left
        floor = min(epoch, MAX_FLOOR)
        return Plan(result=None, departed={name: replace(left, epoch=floor)} if floor > left.epoch else {})
    member = _member(picture, name)
    if epoch <= member.epoch:
        return Plan(result=None)
    return Plan(result=None, members={name: replace(member, epoch=epoch)})


def put_link(picture: Picture, entry: LinkEntry) -> Plan[LinkEntry]:
    link = entry.link
    _member(picture, link.a)
    _member(picture, link.b)
    present = picture.links.get(link.name)
    if present is not None:
        entry = replace(entry, link=replace(link, created_ns=present.link.created_ns))
        if entry == present:
            return Plan(result=present)
    return Plan(result=entry, links={link.name: entry})


def remove_link(picture: Picture, name: str) -> Plan[LinkEntry]:
    entry = picture.links.get(name)
    if entry is None:
        a, _, b = name.partition("/")
        raise NotFound(f"{a} and {b} are not linked", hint="`fedctl get links` lists the links", code="link_unknown")
    return Plan(result=entry, links={name: None})


def issue_token(picture: Picture, token: Token) -> Plan[None]:
    if token.cluster in picture.members:
        raise taken(token.cluster)
    if token.hash in picture.tokens:
        raise AlreadyExists("this join token exists already", code="token_exists")
    old = {h: None for h, t in picture.tokens.items() if t.expires_ns + KEEP_TOKENS_NS < token.issued_ns}
    return Plan(result=None, tokens={**_revoked(_unused(picture, token.cluster, 0)), **old, token.hash: token})


def revoke_tokens(picture: Picture, cluster: str, now_ns: int) -> Plan[int]:
    unused = _unused(picture, cluster, now_ns)
    return Plan(result=len(unused), tokens=_revoked(unused))


def revoke_all_tokens(picture: Picture) -> Plan[int]:
    """After a restore: an older picture may hold a token as unused that has been used since."""
    unused = [t for t in picture.tokens.values() if not t.redeemed_by and not t.revoked]
    return Plan(result=len(unused), tokens=_revoked(unused))


def taken(cluster: str) -> AlreadyExists:
    return AlreadyExists(
        f"a cluster {cluster} is a member already",
        hint=f"choose another name, or remove it first: fedctl cluster leave {cluster}",
        code="cluster_exists",
    )


def no_cluster(name: str) -> NotFound:
    return NotFound(
        f"no cluster {name!r} in this federation", hint="`fedctl get clusters` lists them", code="cluster_unknown"
    )


def _member(picture: Picture, name: str) -> Member:
    member = picture.members.get(name)
    if member is None:
        raise no_cluster(name)
    return member


def _unused(picture: Picture, cluster: str, now_ns: int) -> list[Token]:
    return [
        t
        for t in picture.tokens.values()
        if t.cluster == cluster and not t.redeemed_by and not t.revoked and t.expires_ns > now_ns
    ]


def _revoked(tokens: list[Token]) -> dict[bytes, Token | None]:
    return {t.hash: replace(t, revoked=True) for t in tokens}
