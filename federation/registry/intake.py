"""Takes in one member's report: bounded, checked record by record, counted against its quotas, then put into the log.

Arrives: `Changes` of its Publish stream (federation.registry.publish). Leaves: records in the log, rejections to the
origin, audit lines where it claimed what is not its own. A rejected record never replaces the last good one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.catalog.replica import Changes, Log, Sink
from federation.errors import Conflict, Denied, InvalidInput, IsthmusError, QuotaExceeded
from federation.log import Logger
from federation.model.cluster import Bundle
from federation.model.record import MAX_EPOCH, Key, Kind, OriginState, Record
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.publish import Rejection
from federation.registry.quota import NOTHING, Size, TokenBucket, Usage
from federation.registry.report import Admitted, admit
from federation.registry.settings import Quotas
from federation.registry.sight import TermsIndex
from federation.store.base import Member

HEADROOM = 2
"""A report may hold so many times its quotas before its stream is closed; what exceeds them is rejected one by one."""
SLACK = 1_000
_RATE = "*"


class BoundedSink(Sink):
    """A Sink of one origin that cannot be filled without end.

    `opened` is called when a stream begins, `check` for each record as it arrives, `denied` when the stream speaks of
    another origin.
    """

    def __init__(
        self,
        *,
        origin: str,
        limits: Quotas,
        opened: Callable[[], None],
        check: Callable[[Record], None],
        denied: Callable[[Denied], None],
    ) -> None:
        super().__init__(origin=origin)
        self._denied = denied
        self._limits = limits
        self._opened = opened
        self._check = check
        self._unmeasured = 0

    def open(self) -> pb.Demand:
        """As Sink.open."""
        self._opened()
        return super().open()

    def receive(self, update: pb.Update | bytes, *, stream: int | None = None) -> Changes | None:
        """As Sink.receive; raises QuotaExceeded besides."""
        before = len(self._staged)
        try:
            changes = super().receive(update, stream=stream)
        except Denied as error:
            self._denied(error)
            raise
        if changes is None:
            for record in self._staged[before:]:
                self._check(record)
        if isinstance(update, bytes):
            self._measure(len(update))
        return changes

    def _measure(self, more: int) -> None:
        limits = self._limits
        count = len(self.replica) + len(self._staged)
        if count > HEADROOM * (limits.services + limits.gateways) + SLACK:
            raise self._exceeded(f"{count} records")
        self._unmeasured += more
        if self._unmeasured > limits.bytes / 4:
            self._unmeasured = 0
            held = sum(len(r.payload or b"") for group in (self.replica.records(), self._staged) for r in group)
            if held > HEADROOM * limits.bytes:
                raise self._exceeded(f"{held} bytes")

    def _exceeded(self, what: str) -> QuotaExceeded:
        self._staged.clear()
        return QuotaExceeded(
            f"the report of {self._origin} has {what}, far above its quota",
            hint="export less, or raise the quotas in the registry's settings",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What an intake needs of the registry around it. The callbacks must not block."""

    log: Log
    limits: Quotas
    single_machine: bool
    terms: TermsIndex
    now: Callable[[], float]
    member: Callable[[], Member | None]
    on_epoch: Callable[[int], None]
    on_bundle: Callable[[Bundle], None]
    on_records: Callable[[int], None]
    audit: Logger


class Publishing:
    """The state of one Publish stream, kept for the next one to resume from."""

    def __init__(self, origin: str, desk: Desk, bucket: TokenBucket) -> None:
        self.origin = origin
        self.rejections = 0
        self.usage = Usage()
        self.complete = False
        self.sink = BoundedSink(
            origin=origin, limits=desk.limits, opened=self._opened, check=self._check, denied=self._denied
        )
        self._desk = desk
        self._sizes: dict[Key, Size] = {}
        self._verdicts: dict[Key, tuple[Record, Admitted | IsthmusError]] = {}
        self._bucket = bucket  # of the member, whatever number of streams it opens
        self._debt_until = 0.0
        self._slow = False

    @property
    def epoch(self) -> int:
        """Of the report."""
        return self.sink.replica.newest(self.origin).epoch

    def pause(self) -> float:
        """Seconds until the next frame may be read."""
        return max(0.0, self._debt_until - self._desk.now())

    def take(self, changes: Changes) -> Sequence[Rejection]:
        """Bring `changes` into the log; returns what is rejected. Raises Conflict (stale_epoch), InvalidInput."""
        self._check_epoch()
        count = len(changes.put) + len(changes.deleted)
        now = self._desk.now()
        self._debt_until = now + self._bucket.take(count, now)
        rejections = self._complete() if changes.complete else self._delta(changes)
        self._verdicts.clear()
        self._desk.on_records(count)
        self.rejections += len(rejections)
        slow, self._slow = self._slow, self._debt_until > now
        if self._slow and not slow:
            detail = f"more than {self._desk.limits.records_per_second:g} records a second: the report is slowed down"
            rejections.append(Rejection(Kind.SERVICE, _RATE, QuotaExceeded.code, detail))
        return rejections

    def _check_epoch(self) -> None:
        member, replica = self._desk.member(), self.sink.replica
        seen = self._desk.log.origins().get(self.origin)
        reported = 0 if seen is None or seen.state is OriginState.GONE else seen.version.epoch
        newest = max(member.epoch if member else 0, reported)
        claimed = replica.newest(self.origin).epoch
        if claimed > MAX_EPOCH:
            raise InvalidInput(f"no report has the epoch {claimed}", code="invalid_epoch")
        if self.origin in self.sink.overruled or claimed < newest:
            raise Conflict(
                f"a newer agent of {self.origin} has reported (epoch {newest}); this one has epoch {claimed}",
                hint="is a second agent running, was its state restored from a backup, or is its clock behind?",
                code="stale_epoch",
            )
        if member is not None and claimed > member.epoch:
            self._desk.on_epoch(claimed)

    def _complete(self) -> list[Rejection]:
        """The replica holds everything: what is not in it goes."""
        log, rejections, admitted = self._desk.log, [], []
        records = list(self.sink.replica.records(origin=self.origin))
        keys = {record.key for record in records}
        for key in [k for k in self._sizes if k not in keys]:
            self._count(key, NOTHING)
        for record in records:
            rejection = self._admit(record)
            if rejection is None:
                admitted.append(record)
                continue
            rejections.append(rejection)
            held = log.get(record.key)
            if held is not None:
                admitted.append(held)
        log.reset_origin(self.origin, self.sink.replica.newest(self.origin), admitted)
        self.complete = True
        return rejections

    def _delta(self, changes: Changes) -> list[Rejection]:
        log, rejections, admitted = self._desk.log, [], []
        for key in changes.deleted:  # first: they make room
            log.delete(key, self.sink.replica.newest(self.origin))
            self._count(key, NOTHING)
        for record in changes.put:
            rejection = self._admit(record)
            if rejection is None:
                admitted.append(record)
            else:
                rejections.append(rejection)
        log.put(admitted)
        return rejections

    # --- one record --------------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        """What an earlier stream left half said."""
        self._desk.log.unstage(self.origin)

    def _check(self, record: Record) -> None:
        """As it arrives, so that a large report does not hold up the others when its last frame comes."""
        if record.payload is not None:
            verdict = self._verdict(record)
            self._verdicts[record.key] = (record, verdict)
            if (
                isinstance(verdict, Admitted) and not verdict.terms.grants
            ):  # those are learnt when the report is accepted
                self._desk.log.stage(record)

    def _verdict(self, record: Record) -> Admitted | IsthmusError:
        member = self._desk.member()
        if member is None:
            return Denied(f"{self.origin} is no member any more", code="not_authorised")
        try:
            return admit(record, member, single_machine=self._desk.single_machine)
        except IsthmusError as error:
            return error

    def _admit(self, record: Record) -> Rejection | None:
        known = self._verdicts.get(record.key)
        verdict = known[1] if known is not None and known[0] is record else self._verdict(record)
        if isinstance(verdict, Admitted):
            try:
                self._count(record.key, verdict.size)
            except QuotaExceeded as error:
                verdict = error
            else:
                self._desk.terms.learn(record, verdict.terms)
                if verdict.bundle is not None:
                    self._desk.on_bundle(verdict.bundle)
                return None
        if isinstance(verdict, Denied):
            self._denied(verdict, kind=record.key.kind.name, name=record.key.name[:140])
        return Rejection(record.key.kind, record.key.name[:300], verdict.error_code, str(verdict))

    def _denied(self, error: Denied, **fields: str) -> None:
        """The origin claimed what is not its own."""
        self._desk.audit.warning(
            "claim_refused", cluster=self.origin, code=error.error_code, detail=error.message, **fields
        )

    def _count(self, key: Key, size: Size) -> None:
        old = self._sizes.get(key, NOTHING)
        self.usage.replace(old, size, self._desk.limits)
        if size is NOTHING:
            self._sizes.pop(key, None)
        else:
            self._sizes[key] = size
