"""A process that decodes: what a hostile file does to it, it does to nobody else.

It imports no torch, reads requests from a pipe and answers each with replies and an `End`. The pipe
is the bound of what is decoded ahead. It ends with the pipe, or with the process that started it.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer import decode_protocol as protocol
from indexer.archives import list_members, read_members
from indexer.decode_protocol import FrameHead, Pixels, content_digest
from indexer.errors import SourceError
from indexer.limits import Limits
from indexer.pictures import decode_picture
from indexer.sampling import ClipClock, Sampler, sampled_positions
from indexer.video import NumberedFrame, clip_info, frame_at, number_frames, packet_times

#: Seconds between two signs of life.
_ALIVE_EVERY_S = 0.5

Sent = protocol.Reply | FrameHead


def main(connection: Connection, limits: Limits) -> None:
    """Serve requests until the pipe ends."""
    # Ctrl-C reaches the whole group; the indexer decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _limit_memory(limits.memory_bytes)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(protocol.End())
        while True:
            _serve(connection, connection.recv(), limits)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _limit_memory(extra_bytes: int) -> None:
    """Limit the address space to what is taken now and so much more, where the system can."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        return


def _serve(connection: Connection, request: protocol.Request, limits: Limits) -> None:
    try:
        for reply, pixels in _answer(request, limits):
            connection.send(reply)
            if pixels is not None:
                connection.send_bytes(pixels.reshape(-1).data)
        connection.send(protocol.End())
    except SourceError as error:
        if isinstance(error.__cause__, MemoryError):
            connection.send(_out_of_memory(limits))
        else:
            connection.send(protocol.Failed(str(error)))
    except MemoryError:
        connection.send(_out_of_memory(limits))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        # Whatever a file does to a decoder is that file's failure.
        connection.send(protocol.Failed(f"it cannot be decoded ({type(error).__name__}: {error})"))


def _out_of_memory(limits: Limits) -> protocol.Failed:
    # What was taken does not all come back: the next file would fail for it.
    mebibytes = limits.memory_bytes >> 20
    return protocol.Failed(f"it needs more than {mebibytes} MiB of memory", lost=True)


def _too_long(limits: Limits) -> str:
    return f"it has more than {limits.picture_bytes:,} bytes, which is refused"


def _answer(request: protocol.Request, limits: Limits) -> Iterator[tuple[Sent, Pixels | None]]:
    if isinstance(request, protocol.ListArchive):
        yield protocol.Value(list_members(request.path, limits)), None
    elif isinstance(request, protocol.HashMembers):
        yield from ((reply, None) for reply in _hash_members(request, limits))
    elif isinstance(request, protocol.ReadPictures):
        yield from _read_pictures(request, limits)
    elif isinstance(request, protocol.ReadClip):
        yield from _read_clip(request, limits)
    elif isinstance(request, protocol.SampledPositions):
        times = packet_times(request.path)
        value = None if times is None else sampled_positions(times, request.fps)
        yield protocol.Value(value), None
    elif isinstance(request, protocol.VerifyClip):
        yield from ((reply, None) for reply in _verify(request, limits))
    else:
        yield from _read_frame(request, limits)


def _hash_members(
    request: protocol.HashMembers, limits: Limits
) -> Iterator[protocol.Hashed | protocol.Broken]:
    places = {name: place for place, name in enumerate(request.names)}
    for name, data in read_members(request.path, request.names, limits):
        if isinstance(data, str):
            yield protocol.Broken(places[name], data)
        else:
            yield protocol.Hashed(places[name], hashlib.sha256(data).hexdigest())


def _read_pictures(
    request: protocol.ReadPictures, limits: Limits
) -> Iterator[tuple[Sent, Pixels | None]]:
    files = (
        _files(request.names, limits)
        if request.archive is None
        else read_members(request.archive, request.names, limits)
    )
    places = {name: place for place, name in enumerate(request.names)}
    for name, data in files:
        place = places[name]
        if isinstance(data, str):
            yield protocol.Broken(place, data), None
            continue
        if hashlib.sha256(data).hexdigest() != request.digests[place]:
            yield protocol.Broken(place, "it changed while it was indexed; run it again"), None
            continue
        try:
            picture = decode_picture(data, limits)
        except SourceError as error:
            yield protocol.Broken(place, str(error)), None
            continue
        height, width = picture.pixels.shape[:2]
        digest = content_digest(picture.pixels)
        head = FrameHead(place, 0, (height, width), digest, taken_at=picture.taken_at)
        yield head, picture.pixels


def _files(names: tuple[str, ...], limits: Limits) -> Iterator[tuple[str, bytes | str]]:
    for name in names:
        try:
            with Path(name).open("rb") as file:
                # Not `read(limit)`: that much would be reserved first.
                fits = os.fstat(file.fileno()).st_size <= limits.picture_bytes
                data: bytes | str = file.read() if fits else _too_long(limits)
        except OSError as error:
            data = error.strerror or "it cannot be read"
        yield name, data


def _read_clip(request: protocol.ReadClip, limits: Limits) -> Iterator[tuple[Sent, Pixels | None]]:
    info = clip_info(request.path)
    yield protocol.ClipStart(info.rate, info.duration_s, info.created_at), None
    sampler, clock, pulse = Sampler(request.fps), ClipClock(info.rate), _Pulse()
    done = _mask(request.done)
    wanted = None if request.wanted is None else set(request.wanted.tolist())
    for frame in number_frames(request.path):
        if wanted is not None and not wanted:
            return
        offset_s = clock.offset_s(frame.position, frame.timestamp_s)
        share = _share(offset_s, info.duration_s)
        taken = sampler.takes(offset_s)
        if wanted is not None:
            taken = taken and frame.position in wanted
            wanted.discard(frame.position)
        if not taken or (frame.position < len(done) and done[frame.position]):
            if pulse.due():
                yield protocol.Alive(share), None
            continue
        yield _clip_frame(frame, limits, offset_s, share)


def _verify(
    request: protocol.VerifyClip, limits: Limits
) -> Iterator[protocol.Alive | protocol.Value]:
    expected = dict(zip(request.positions.tolist(), request.digests, strict=True))
    pulse = _Pulse()
    for frame in number_frames(request.path) if expected else ():
        wanted = expected.pop(frame.position, None)
        if wanted is not None and content_digest(_pixels(frame, limits)) != wanted:
            yield protocol.Value(False)
            return
        if not expected:
            break
        if pulse.due():
            yield protocol.Alive()
    yield protocol.Value(not expected)


def _read_frame(
    request: protocol.ReadFrame, limits: Limits
) -> Iterator[tuple[Sent, Pixels | None]]:
    if request.timestamp_s is not None:
        quick = frame_at(request.path, request.timestamp_s)
        if quick is not None:
            head, pixels = _clip_frame(quick, limits)
            if head.digest == request.digest:
                yield head, pixels
                return
    pulse = _Pulse()
    for frame in number_frames(request.path):
        if frame.position == request.position:
            yield _clip_frame(frame, limits)
            return
        if pulse.due():
            yield protocol.Alive(), None


def _clip_frame(
    frame: NumberedFrame,
    limits: Limits,
    offset_s: Fraction = Fraction(0),
    share: float | None = None,
) -> tuple[FrameHead, Pixels]:
    pixels = _pixels(frame, limits)
    height, width = pixels.shape[:2]
    head = FrameHead(
        0,
        frame.position,
        (height, width),
        content_digest(pixels),
        frame.timestamp_s,
        offset_s,
        share=share,
    )
    return head, pixels


def _pixels(frame: NumberedFrame, limits: Limits) -> Pixels:
    width, height = frame.size
    if width * height > limits.pixels:
        raise SourceError(
            f"its frames have {width}x{height} pixels, more than {limits.pixels:,} are refused"
        )
    return frame.pixels()


def _mask(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(int(positions.max(initial=-1)) + 1, np.bool_)
    mask[positions] = True
    return mask


def _share(offset_s: Fraction, duration_s: float | None) -> float | None:
    if not duration_s:
        return None
    return min(max(float(offset_s) / duration_s, 0.0), 1.0)


class _Pulse:
    """Says when a sign of life is due."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < _ALIVE_EVERY_S:
            return False
        self._last = now
        return True
