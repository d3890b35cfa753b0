"""What the service says about itself: one line for each request, as text or JSON.

Routes stand as they are written in the code: paths with ids, queries, names and whatever was sent
would tell who was looked for. The audit is where that is.
"""

import logging
import sys
import traceback
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]

#: Of the request that is answered; "-" outside of one. It is in the answer as X-Request-Id.
request_id: ContextVar[str] = ContextVar("request_id", default="-")

_FIELDS = "%(asctime)s %(levelname)s %(name)s %(request_id)s %(message)s"
_requests = logging.getLogger("service.requests")


class _Quiet:
    """Tells where an exception was raised, but not what it says: that may name files or people."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        kind, _, trace = ei
        frames = traceback.extract_tb(trace)
        places = [f"  {PurePath(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        return "\n".join([kind.__name__, *places])


class _Text(_Quiet, logging.Formatter):
    pass


class _Json(_Quiet, JsonFormatter):
    pass


def configure(form: LogFormat) -> None:
    """Write what is logged to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(add_request_id)
    handler.setFormatter(_Json(_FIELDS) if form == "json" else _Text(_FIELDS))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("service").setLevel(logging.INFO)


def add_request_id(entry: logging.LogRecord) -> bool:
    """Say with every line which request it belongs to."""
    entry.request_id = request_id.get()
    return True


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Log a request that was answered."""
    ms = round(1e3 * seconds, 1)
    more = {"method": method, "route": route, "status": status, "ms": ms}
    _requests.info("%s %s %d %.1f ms", method, route, status, ms, extra=more)
