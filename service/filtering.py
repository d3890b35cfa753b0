"""What a request may name: cameras within the key's scope, and times that mean a moment."""

from collections.abc import Sequence
from datetime import datetime

from service.keys import Key
from service.problems import ProblemError
from service.state import Service


def named_cameras(service: Service, key: Key, names: Sequence[str] = ()) -> dict[str, int]:
    """Return the ids of cameras by name: those named, or without names all within the scope.

    Raises
    ------
    ProblemError
        404, when one is not there; what is outside the scope is not there.
    """
    scope = service.scope(key)
    known = {
        name: camera
        for name, camera in service.gallery.cameras().items()
        if scope is None or camera in scope
    }
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise ProblemError(404, f"There is no camera {unknown[0]!r}")
    return {name: known[name] for name in names} if names else known


def require_zones(*moments: datetime | None) -> None:
    """Refuse times without a time zone.

    Raises
    ------
    ProblemError
        422, when there is one.
    """
    if any(moment is not None and moment.utcoffset() is None for moment in moments):
        raise ProblemError(422, "Give times with a time zone, such as 2026-05-04T10:00:00Z")
