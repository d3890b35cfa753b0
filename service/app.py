"""The HTTP interface as one FastAPI app: routes, limits, problems, health and metrics."""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from service import admin, frames, jobs, logs, pages, problems, retention, review, searching
from service.documents import PREFIX
from service.encoder import Encoder
from service.index_jobs import Run
from service.limits import BodyLimit
from service.metrics import Metrics
from service.problems import Problem
from service.settings import Settings
from service.state import Service

#: No scripts, frames or pictures from elsewhere; nothing is sent on to others.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {"model": Problem, "content": {problems.MEDIA_TYPE: {}}}
    for status in (400, 401, 403, 404, 409, 410, 413, 422, 429, 503)
}


class Health(BaseModel):
    """How the service is."""

    status: str
    detail: str | None = None


def create_app(
    settings: Settings,
    load: Callable[[], Encoder] | None = None,
    run_job: Run | None = None,
) -> FastAPI:
    """Make the app; its gallery is opened here, and loaded when it starts.

    Parameters
    ----------
    settings
        What it is told.
    load
        Makes the encoder; None loads the weights of the settings.
    run_job
        Runs an index job; None starts a process for each.

    Raises
    ------
    GalleryError
        When there is no gallery.
    """
    service = Service(settings, load, run_job)
    metrics = Metrics(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="BINet",
        summary="One picture of a person in; frames and boxes of similar people out.",
        description="Results are similar; nobody is identified. A person has to check them.",
        version="1",
        lifespan=lifespan,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)

    @app.middleware("http")
    async def observe(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        begun = time.perf_counter()
        logs.request_id.set(number := uuid.uuid4().hex)
        response = await answer(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "unknown")
        what = (request.method, path, response.status_code, time.perf_counter() - begun)
        metrics.observe(*what)
        logs.answered(*what)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["X-Request-Id"] = number
        return response

    app.add_middleware(BodyLimit, most_bytes=settings.body_bytes)
    app.include_router(pages.router)
    for router in (
        searching.router,
        frames.router,
        review.router,
        retention.router,
        jobs.router,
        admin.router,
    ):
        app.include_router(router, responses=_PROBLEMS)

    @app.get("/livez", tags=["health"])
    async def livez() -> Health:
        """Tell that the process answers."""
        return Health(status="alive")

    @app.get("/readyz", tags=["health"], responses={503: {"model": Health}})
    def readyz() -> JSONResponse:
        """Tell whether searches can be answered now, and why not."""
        problem = service.problem()
        body = Health(status="ready" if problem is None else "not ready", detail=problem)
        return JSONResponse(body.model_dump(), 200 if problem is None else 503)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Measurements in Prometheus's form; no pictures, names or keys."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app
