"""How much a file may ask for. What asks for more is refused with a reason, and alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on one source; the defaults are far above what cameras make.

    Attributes
    ----------
    pixels
        Of one frame or picture, read from its header before anything is decoded.
    picture_bytes
        Of one picture's file, unpacked.
    archive_members, archive_bytes
        Files in an archive, and what they come to unpacked.
    archive_ratio
        Of one member, unpacked over packed; small members are free.
    memory_bytes
        That a decoder may take beyond its own program.
    frame_s
        Seconds without a sign of life: one frame, one picture.
    clip_s
        Seconds that the rest waits for one source in all.
    start_s
        Seconds until a decoder runs.
    """

    pixels: int = 100_000_000
    picture_bytes: int = 256 << 20
    archive_members: int = 1_000_000
    archive_bytes: int = 1 << 40
    archive_ratio: int = 200
    memory_bytes: int = 2 << 30
    frame_s: float = 30.0
    clip_s: float = 6 * 3600.0
    start_s: float = 120.0
