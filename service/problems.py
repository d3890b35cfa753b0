"""Errors as RFC 9457 problem documents: one form for all, and nothing of the inside in them."""

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from indexer.errors import (
    EmbeddingError,
    EncoderError,
    GalleryError,
    IndexOutageError,
    MediaError,
    SourceError,
    UnknownBoxError,
)
from model.errors import BINetError
from service.encoder import BusyError, EncodingError, NotReadyError

_log = logging.getLogger(__name__)

#: What is said of an index that is a server, and away.
INDEX_OUTAGE = "the vector index cannot be reached; nothing is lost, it catches up by itself"

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong, and what to do (RFC 9457)."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no box 17 among those that may be searched"])
    errors: list[dict[str, Any]] | None = Field(
        None, description="Of a request that is not of the documented form: where and why."
    )


class ProblemError(Exception):
    """An answer that is a problem document."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


#: Status of our own errors, the first that fits.
_STATUS: tuple[tuple[type[BINetError], int], ...] = (
    (UnknownBoxError, 404),
    (EmbeddingError, 422),
    (EncoderError, 409),
    (MediaError, 410),
    (SourceError, 422),
    (GalleryError, 400),
)


def problem(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: Any = None
) -> JSONResponse:
    """Make the answer."""
    body = Problem(
        type="about:blank",
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=errors,
    )
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Answer every exception with a problem document."""

    @app.exception_handler(ProblemError)
    async def _ours(_: Request, error: ProblemError) -> JSONResponse:
        return problem(error.status, error.detail, error.headers)

    @app.exception_handler(BINetError)
    async def _mendable(_: Request, error: BINetError) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if status == 500:
            _log.error("Unexpected %s", type(error).__name__, exc_info=error)
            return problem(500, "The service could not do this; its log says why")
        return problem(status, str(error))

    @app.exception_handler(BusyError)
    async def _busy(_: Request, error: BusyError) -> JSONResponse:
        return problem(
            429,
            "Too many requests wait already: ask again later",
            {"Retry-After": str(error.retry_after_s)},
        )

    @app.exception_handler(IndexOutageError)
    async def _outage(_: Request, error: IndexOutageError) -> JSONResponse:
        # Its text has addresses of the inside.
        _log.warning("%s", error)
        return problem(503, INDEX_OUTAGE, {"Retry-After": "5"})

    @app.exception_handler(NotReadyError)
    async def _not_ready(_: Request, error: NotReadyError) -> JSONResponse:
        return problem(503, f"The service is not ready: {error}", {"Retry-After": "5"})

    @app.exception_handler(EncodingError)
    async def _encoding(_: Request, error: EncodingError) -> JSONResponse:
        return problem(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without what was sent: it may be a picture or a secret.
        found = [
            {"where": ".".join(map(str, one["loc"])), "why": one["msg"]} for one in error.errors()
        ]
        detail = "; ".join(f"{one['where']}: {one['why']}" for one in found[:3])
        return problem(422, detail or "The request is not of the documented form", errors=found)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        _log.error("Unexpected %s", type(error).__name__, exc_info=error)
        return problem(500, "Something unexpected happened; the service's log says what")
