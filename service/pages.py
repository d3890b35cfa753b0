"""The web page: files of this package, which ask the same interface that programs use."""

from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from service.problems import ProblemError

router = APIRouter(include_in_schema=False)

_FOLDER = files("service") / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript"}
#: Its own files and pictures that it holds already; nothing else is loaded or run.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


@router.get("/")
def index() -> HTMLResponse:
    """Return the page."""
    text = (_FOLDER / "index.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})


@router.get("/page/{name}")
def part(name: str) -> Response:
    """Return one of the files that the page is made of."""
    for file in _FOLDER.iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if file.name == name and suffix in _TYPES:
            return Response(file.read_bytes(), media_type=_TYPES[suffix])
    raise ProblemError(404, "The page has no such file")
