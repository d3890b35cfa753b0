"""Reading files into batches: what is known already is passed over, what is broken fails alone."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import groupby

import numpy as np

from indexer import decode_protocol as protocol
from indexer.capture_time import CaptureTime, Clock, capture_time, time_in_name
from indexer.database import Database
from indexer.decoder import Decoder, DecoderLostError
from indexer.errors import SourceError
from indexer.known import (
    KnownClip,
    Scope,
    clip_digests,
    earlier_clip,
    known_clip,
    known_pictures,
)
from indexer.schema import SourceState
from indexer.sources import SourceFile, SourceKind, hash_file
from indexer.work import Batch, IndexOptions, Outcome, Status, Taken

Task = list[SourceFile]


def tasks(files: Sequence[SourceFile], batch: int) -> Iterator[Task]:
    """Cut the work up: each video, each archive, and so many pictures at a time.

    The cuts depend on nothing but the files, so that what is resumed is cut as before.
    """

    def place(file: SourceFile) -> tuple[str, str]:
        if file.problem is not None and file.member is None:
            return ("problem", file.path)
        if file.kind == SourceKind.VIDEO or file.member is not None:
            return ("alone", file.path)
        return ("pictures", "")

    for (kind, _), group in groupby(files, place):
        together = list(group)
        size = batch if kind == "pictures" else len(together)
        for start in range(0, len(together), size):
            yield together[start : start + size]


class Reader:
    """Reads tasks with one decoder process.

    Parameters
    ----------
    emit
        Takes each batch; may wait, and may raise to end the reading.
    alive
        Called while files are hashed; may raise to end the reading.
    """

    def __init__(
        self,
        decoder: Decoder,
        database: Database,
        scope: Scope,
        options: IndexOptions,
        emit: Callable[[Batch], None],
        alive: Callable[[], None] | None = None,
    ) -> None:
        self._decoder = decoder
        self._database = database
        self._scope = scope
        self._options = options
        self._emit = emit
        self._alive = alive
        self._batch = Batch()

    def read(self, task: Task) -> None:
        """Read a task, and emit the rest of it."""
        refused = [file for file in task if file.problem is not None]
        for file in refused:
            self._end(file, Status.FAILED, str(file.problem))
        files = [file for file in task if file.problem is None]
        if files and files[0].kind == SourceKind.VIDEO:
            self._read_video(files[0])
        elif files:
            self._read_pictures(files)
        self._flush()

    def _end(
        self, file: SourceFile, status: Status, reason: str = "", source_id: int | None = None
    ) -> None:
        self._batch.outcomes.append(Outcome(file, status, reason, source_id))

    def _take(self, taken: Taken) -> None:
        self._batch.frames.append(taken)

    def _flush_full(self) -> None:
        if len(self._batch.frames) >= self._options.batch:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if batch.frames or batch.outcomes:
            self._emit(batch)

    # Pictures

    def _read_pictures(self, files: list[SourceFile]) -> None:
        hashed = self._hash(files)
        with self._database.read() as connection:
            known = known_pictures(connection, self._scope, [digest for _, digest in hashed])
        for file, digest in hashed:
            if digest in known:
                self._end(file, Status.UNCHANGED)
        rest = [(file, digest) for file, digest in hashed if digest not in known]
        while rest:
            # After a decoder was lost, the rest goes on without its culprit.
            rest = self._decode(rest)

    def _hash(self, files: list[SourceFile]) -> list[tuple[SourceFile, str]]:
        if files[0].member is not None:
            return self._hash_members(files)
        hashed = []
        for file in files:
            try:
                hashed.append((file, hash_file(file.path, self._alive)))
            except SourceError as error:
                self._end(file, Status.FAILED, str(error))
        return hashed

    def _hash_members(self, files: list[SourceFile]) -> list[tuple[SourceFile, str]]:
        names = tuple(str(file.member) for file in files)
        hashed: list[tuple[SourceFile, str]] = []
        unread = dict(enumerate(files))
        reason = "it is not in the archive any more"
        try:
            for reply in self._decoder.request(protocol.HashMembers(files[0].path, names)):
                if isinstance(reply, protocol.Hashed):
                    hashed.append((unread.pop(reply.place), reply.digest))
                elif isinstance(reply, protocol.Broken):
                    self._end(unread.pop(reply.place), Status.FAILED, reply.reason)
        except SourceError as error:
            reason = str(error)
        for file in unread.values():
            self._end(file, Status.FAILED, reason)
        return hashed

    def _decode(self, hashed: list[tuple[SourceFile, str]]) -> list[tuple[SourceFile, str]]:
        """Decode pictures; return those that are still to be decoded."""
        archive = hashed[0][0].path if hashed[0][0].member is not None else None
        names = tuple(file.member or file.path for file, _ in hashed)
        digests = tuple(digest for _, digest in hashed)
        unread = dict(enumerate(hashed))
        lost = False
        reason = "it is not in the archive any more"
        try:
            for reply in self._decoder.request(protocol.ReadPictures(names, digests, archive)):
                if isinstance(reply, protocol.Broken):
                    self._end(unread.pop(reply.place)[0], Status.FAILED, reply.reason)
                elif isinstance(reply, protocol.Frame):
                    self._take_picture(*unread.pop(reply.head.place), reply)
        except DecoderLostError as error:
            lost, reason = True, str(error)
        except SourceError as error:
            reason = str(error)
        rest = [unread[place] for place in sorted(unread)]
        # Pictures come in their order: the first that did not come is the culprit.
        failed = rest[:1] if lost else rest
        for file, _ in failed:
            self._end(file, Status.FAILED, reason)
        return rest[len(failed) :]

    def _take_picture(self, file: SourceFile, digest: str, frame: protocol.Frame) -> None:
        candidates = [
            (Clock.GIVEN, self._given()),
            (Clock.EXIF, frame.head.taken_at),
            (Clock.NAME, time_in_name(file.inner_path)),
            (Clock.FILE, file.changed_at or datetime.fromtimestamp(0, UTC)),
        ]
        captured = capture_time(candidates, self._options.utc_offset)
        self._take(_taken(file, digest, frame, captured))
        self._end(file, Status.INDEXED)
        self._flush_full()

    def _given(self) -> datetime | None:
        return None if self._options.start is None else self._options.start.moment

    # Videos

    def _read_video(self, file: SourceFile) -> None:
        source_id = None
        try:
            digest = hash_file(file.path, self._alive)
            with self._database.read() as connection:
                known = known_clip(connection, self._scope, digest)
                earlier = None if known else earlier_clip(connection, self._scope, file)
            grown = earlier is not None and self._is_grown(file, earlier)
            clip = earlier if grown else known
            source_id = None if clip is None else clip.source_id
            if known is not None and self._is_done(file, known):
                self._end(file, Status.UNCHANGED, source_id=known.source_id)
                return
            self._read_frames(file, digest, clip, grown)
        except SourceError as error:
            self._end(file, Status.FAILED, str(error), source_id)
        else:
            self._end(file, Status.INDEXED, source_id=source_id)

    def _is_done(self, file: SourceFile, known: KnownClip) -> bool:
        """Tell without decoding whether all frames that would be taken are in the gallery."""
        if known.state != SourceState.COMPLETE:
            return False
        wanted = self._decoder.value(protocol.SampledPositions(file.path, self._options.fps))
        return isinstance(wanted, list) and set(wanted) <= set(known.done.tolist())

    def _is_grown(self, file: SourceFile, earlier: KnownClip) -> bool:
        with self._database.read() as connection:
            positions, digests = clip_digests(connection, earlier.source_id)
        return bool(self._decoder.value(protocol.VerifyClip(file.path, positions, digests)))

    def _read_frames(
        self, file: SourceFile, digest: str, clip: KnownClip | None, grown: bool
    ) -> None:
        done = clip.done if clip is not None else _NO_POSITIONS
        first = None if clip is None else clip.first
        for reply in self._decoder.request(protocol.ReadClip(file.path, self._options.fps, done)):
            if isinstance(reply, protocol.ClipStart) and first is None:
                first = self._clip_start(file, reply)
            elif isinstance(reply, protocol.Frame) and first is not None:
                captured = CaptureTime(
                    first.moment + _microseconds(reply.head.offset_s), first.clock
                )
                taken = _taken(file, digest, reply, captured)
                taken.source_id = None if clip is None else clip.source_id
                taken.grown = grown
                self._take(taken)
                self._flush_full()

    def _clip_start(self, file: SourceFile, start: protocol.ClipStart) -> CaptureTime:
        # A recorder closes its file with the last frame.
        ended = file.changed_at or datetime.fromtimestamp(0, UTC)
        candidates = [
            (Clock.GIVEN, self._given()),
            (Clock.NAME, time_in_name(file.inner_path)),
            (Clock.CONTAINER, start.created_at),
            (Clock.FILE, ended - timedelta(seconds=start.duration_s or 0.0)),
        ]
        return capture_time(candidates, self._options.utc_offset)


_NO_POSITIONS = np.zeros(0, np.int64)


def _taken(file: SourceFile, digest: str, frame: protocol.Frame, captured: CaptureTime) -> Taken:
    head = frame.head
    return Taken(
        file,
        digest,
        captured,
        head.position,
        head.timestamp_s,
        head.shape,
        head.digest,
        frame.pixels,
        share=head.share,
    )


def _microseconds(seconds: Fraction) -> timedelta:
    return timedelta(microseconds=round(seconds * 1_000_000))
