"""Takes in what a source sends: the receiving end of the replication protocol, without I/O.

Arrives: Updates, as bytes or messages. Leaves: `Changes` to a `Replica`, and Demands for the source. Nothing is applied
that is out of turn, incomplete, or older than what is held; whatever does not add up raises OutOfStep, upon which the
driver opens the stream anew (and resumes, or gets a snapshot, as the sink then asks). The sending end is
federation.catalog.source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from federation.catalog.frames import digest_bytes, origin_from_pb, record_from_pb
from federation.catalog.holding import Changes, Replica
from federation.catalog.log import NAMED
from federation.errors import Denied, InvalidInput, IsthmusError, Unavailable
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb

INSIST = 2
"""Heartbeats for which a source has to repeat that an origin that it hears is older than what this end holds."""


class OutOfStep(IsthmusError):
    """What arrived does not follow from what is held; the stream has to be opened anew."""

    code = "out_of_step"


class Farewell(Unavailable):
    """The other end closed the stream in order, and said why (`error_code`) and when to come back."""

    code = "going_away"

    def __init__(self, code: str, detail: str, retry_after: float) -> None:
        super().__init__(detail or code, code=code)
        self.retry_after = retry_after  # seconds


class Sink:
    """The consumer's end. `open` begins a stream and gives its first Demand; `receive` takes each Update of it.

    `wildcard` False: IMPORT records come by name only (`subscribe`), the other `kinds` all. `origin`: refuse what any
    other origin claims (Denied, code foreign_origin), for the registry's end of Publish. `speaker`: the origin that is
    the source itself. What it says of itself counts at once, whatever the versions: of several agents of one cluster,
    each numbers its view by itself, and the one that is connected is the one to believe.
    """

    def __init__(
        self,
        replica: Replica | None = None,
        *,
        kinds: Iterable[Kind] = frozenset(Kind),
        wildcard: bool = True,
        names: Iterable[str] = (),
        origin: str | None = None,
        speaker: str | None = None,
    ) -> None:
        self.replica = replica if replica is not None else Replica()
        self.kinds = frozenset(kinds)
        self.wildcard = wildcard
        self.stream = 0  # which stream is the present one; frames of earlier ones are late
        self.heartbeat = 0.0  # seconds, as the source says
        self.synced = False
        """Everything that the source has said is held as it said it, as of its last frame."""
        self.overruled: dict[str, Origin] = {}
        """Origins of which this end holds newer versions, and what the source says of them. Kept for the time being."""
        self._insisted: dict[str, int] = {}  # overruled origin -> heartbeats since the source hears it all the same
        self._origin = origin
        self._speaker = speaker
        self._names = set(names)
        if not wildcard:
            self.replica.absent.intersection_update(self._names)  # a view from the disk may know of other names
        self._added: dict[str, None] = {}
        self._dropped: dict[str, None] = {}
        self._demand = 0
        self._greeted = False
        self._snapshot = False
        self._since = 0
        self._part = 0
        self._staged: list[Record] = []

    # --- demands -----------------------------------------------------------------------------------------------------

    def open(self) -> pb.Demand:
        """Begin a new stream: whatever the last one left unfinished is dropped."""
        self.stream += 1
        self._demand = 0
        self._greeted = self.synced = False
        self._staged = []
        self._added.clear()
        self._dropped.clear()
        replica = self.replica
        names = sorted(self._names)
        known = [n for n in names if n in replica.absent or self._held(n)] if replica.history else []
        return pb.Demand(
            subscribe=pb.Subscribe(
                history=replica.history,
                revision=replica.revision,
                kinds=[kind.name for kind in sorted(self.kinds)],
                wildcard=self.wildcard,
                names=names,
                known=known,
                origins=sorted(replica.origins),
            )
        )

    def demands(self) -> list[pb.Demand]:
        """What is to be told to the source since the last call: names added and dropped."""
        if not (self._added or self._dropped):
            return []
        self._demand += 1
        subscribe = pb.Subscribe(names=list(self._added), dropped=list(self._dropped), demand=self._demand)
        self._added.clear()
        self._dropped.clear()
        return [pb.Demand(subscribe=subscribe)]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._names)

    def subscribe(self, names: Iterable[str]) -> None:
        """Ask for IMPORT records by name; each is answered by records or as absent, and followed from then on."""
        for name in names:
            if name not in self._names:
                self._names.add(name)
                self._added[name] = None

    def unsubscribe(self, names: Iterable[str]) -> Changes:
        """No longer follow these names: what is held of them goes."""
        deleted: list[Key] = []
        for name in names:
            if name not in self._names:
                continue
            self._names.discard(name)
            self._added.pop(name, None)
            self._dropped[name] = None
            self.replica.absent.discard(name)
            if not self.wildcard:
                deleted += self._held(name)
        for key in deleted:
            self.replica.remove(key)
        return Changes(deleted=tuple(deleted), revision=self.replica.revision, synced=self.synced)

    def ack(self, *, rejections: Sequence[pb.Rejection] = ()) -> pb.Demand:
        """An Ack of what has been received."""
        digest, _ = self.replica.total()
        return pb.Demand(ack=pb.Ack(revision=self.replica.revision, digest=digest_bytes(digest), rejections=rejections))

    def resync(self) -> None:
        """Ask for a complete snapshot when the stream is opened next."""
        self.replica.history, self.replica.revision = "", 0

    # --- updates -----------------------------------------------------------------------------------------------------

    def receive(self, update: pb.Update | bytes, *, stream: int | None = None) -> Changes | None:
        """Apply one Update of the stream numbered `stream` (None: the present one).

        None when there is nothing to act upon: a frame that is only part of a batch, or late. Raises OutOfStep (open
        the stream anew), Farewell (the source closes it), Denied (a foreign origin), InvalidInput (no such message).
        """
        if stream is not None and stream != self.stream:
            return None
        if isinstance(update, bytes):
            try:
                update = pb.Update.FromString(update)
            except DecodeError as error:
                raise InvalidInput(f"no Update message: {error}", code="malformed_update") from error
        body = update.WhichOneof("body")
        if body == "goodbye":
            bye = update.goodbye
            raise Farewell(bye.code or "going_away", bye.detail, bye.retry_after_ms / 1000)
        if body == "hello":
            self._hello(update.hello)
            return None
        if not self._greeted:
            raise OutOfStep("the source did not begin with Hello")
        if body == "batch":
            return self._batch(update.batch)
        if body == "progress":
            return self._progress(update.progress)
        return None  # a message of a later version

    def _hello(self, hello: pb.Hello) -> None:
        replica = self.replica
        if hello.resumed and hello.history != replica.history:
            self.resync()
            raise OutOfStep("the source resumed another history")
        self._greeted = True
        self._snapshot = not hello.resumed
        self._history = hello.history
        self.heartbeat = hello.heartbeat_ms / 1000
        self._since = replica.revision if hello.resumed else 0
        self._part = 0
        self._staged = []

    def _batch(self, batch: pb.Batch) -> Changes | None:
        if batch.since < self._since or (batch.since == self._since and batch.part < self._part):
            return None  # late: what it says is held already
        if batch.since != self._since or batch.part != self._part:
            raise OutOfStep(f"batch {batch.since}/{batch.part} follows {self._since}/{self._part}")
        for message in batch.records:
            if self._origin is not None and message.origin != self._origin:
                raise Denied(
                    f"the stream of {self._origin!r} claims a record of {message.origin[:80]!r}", code="foreign_origin"
                )
            record = record_from_pb(message)
            if record is not None and self._wants(record.key):
                self._staged.append(record)
        if batch.more:
            self._part += 1
            return None
        staged, self._staged = self._staged, []
        self._part = 0
        self._since = batch.revision
        if self._origin is not None and any(o.name != self._origin for o in batch.origins):
            raise Denied(f"the stream of {self._origin!r} speaks of other origins", code="foreign_origin")
        changes = self._apply(staged, batch)
        self._snapshot = False
        self.synced = changes.synced
        return changes

    def _progress(self, progress: pb.Progress) -> Changes | None:
        if progress.since < self._since:
            return None
        if progress.since != self._since or self._part or self._snapshot:
            raise OutOfStep(f"progress of {progress.since} after {self._since}")
        if progress.demand == self._demand and not (self._added or self._dropped or self.overruled):
            digest, count = self.replica.total()
            if (count, digest_bytes(digest)) != (progress.count, progress.digest):
                self.resync()
                raise OutOfStep(f"{count} records are held where the source has {progress.count}, or others")
            lost = self._unanswered()
            if lost:  # they are asked for anew when the stream is opened
                raise OutOfStep(f"the source has not answered for {', '.join(sorted(lost)[:5])}")
        if self._origin is None:
            self._yield()
        self._since = self.replica.revision = progress.revision
        self.synced = not self.overruled
        return Changes(revision=progress.revision, synced=self.synced)

    def _yield(self) -> None:
        """Give up what is held of an origin that the source hears, and that insists on older versions.

        Whoever is behind for a moment only (a source that comes from a backup, an agent that was replaced) is
        overtaken meanwhile; what remains has begun anew, and nobody but the origin itself can take back what it said.
        """
        heard = [name for name, said in self.overruled.items() if said.state is OriginState.LIVE]
        self._insisted = {name: self._insisted.get(name, 0) + 1 for name in heard}
        given_up = [name for name, times in self._insisted.items() if times >= INSIST]
        if not given_up:
            return
        for name in given_up:
            del self.overruled[name], self._insisted[name]
            self.replica.set_origin(Origin(name, Version(0, 0), OriginState.UNKNOWN))
        self.resync()
        raise OutOfStep(f"{', '.join(sorted(given_up))} has begun anew, with older versions than are held")

    def _apply(self, staged: list[Record], batch: pb.Batch) -> Changes:
        replica = self.replica
        put: dict[Key, Record] = {}
        deleted: dict[Key, None] = {}
        origins: dict[str, Origin] = {}
        complete: list[str] = []
        accepted: dict[str, bool] = {}  # origin -> whether the records staged are all of it
        same_history = self._history == replica.history
        for message in batch.origins:
            origin = origin_from_pb(message)
            held = replica.origins.get(origin.name)
            if held is not None and origin.version < held.version and origin.state is not OriginState.GONE:
                # Within one history an origin goes back only by having been GONE in between: it has begun anew.
                anew = same_history and origin.name in replica.complete
                anew = message.complete and (anew or origin.name == self._speaker)
                if not anew:
                    self.overruled[origin.name] = origin
                    doubted = replica.doubt(origin.name)
                    if doubted is not None:
                        origins[origin.name] = doubted
                    continue
            self.overruled.pop(origin.name, None)
            if origin.state is OriginState.GONE:
                deleted.update(dict.fromkeys(replica.forget_origin(origin.name)))
                if held is not None:
                    origins[origin.name] = origin
                continue
            if replica.set_origin(origin):
                origins[origin.name] = origin
            accepted[origin.name] = message.complete
            if message.complete:
                replica.complete.add(origin.name)
                complete.append(origin.name)
        if self._snapshot:
            replica.history = self._history
            replica.complete.intersection_update(complete)
            spoken = {message.name for message in batch.origins}
            for name in set(replica.origins) - spoken:
                self.overruled.pop(name, None)
                doubted = replica.doubt(name)
                if doubted is not None:
                    origins[name] = doubted
            if not self.wildcard:
                replica.absent.clear()
        kept: dict[str, set[Key]] = {name: set() for name in complete}
        for record in staged:
            key = record.key
            whole = accepted.get(key.origin)
            if whole is None:
                continue  # an origin of which this end knows better, or that is gone
            old = replica.get(key)
            if old is not None and record.version < old.version and not whole:
                continue
            if record.payload is None:
                kept.get(key.origin, set()).discard(key)
                if replica.remove(key):
                    put.pop(key, None)
                    deleted[key] = None
                continue
            if whole:
                kept[key.origin].add(key)
            if replica.set(record):
                deleted.pop(key, None)
                put[key] = record
            if key.kind is NAMED:
                replica.absent.discard(key.name)
        for name, keys in kept.items():
            for key in [r.key for r in replica.records(origin=name) if r.key not in keys]:
                replica.remove(key)
                put.pop(key, None)
                deleted[key] = None
        absent = [name for name in batch.absent if name in self._names]
        replica.absent.update(absent)
        replica.revision = batch.revision
        return Changes(
            put=tuple(put.values()),
            deleted=tuple(deleted),
            origins=tuple(origins.values()),
            complete=tuple(complete),
            absent=tuple(absent),
            revision=batch.revision,
            synced=not self.overruled,
        )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _wants(self, key: Key) -> bool:
        return key.kind in self.kinds and (self.wildcard or key.kind is not NAMED or key.name in self._names)

    def _unanswered(self) -> set[str]:
        """Names that were asked for, of which the source has said neither that they exist nor that they do not.

        An answer without a record moves neither the revision nor the digest: were it lost, nothing else would tell.
        """
        if self.wildcard or NAMED not in self.kinds:
            return set()
        return {name for name in self._names - self.replica.absent if not self._held(name)}

    def _held(self, name: str) -> list[Key]:
        keys = (Key(origin, NAMED, name) for origin in self.replica.origins)
        return [key for key in keys if key in self.replica]
