"""What the service is told when it starts."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model.files import DEFAULT_WEIGHTS


class Settings(BaseModel):
    """Settings of one service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A folder, sqlite:///FILE or postgresql+psycopg://...
    gallery: str = "gallery"
    #: Where Milvus is, as `Gallery.open` takes it; None keeps the vectors in this process.
    index: str | None = None
    #: Checkpoint folder; queries are encoded with it, and it must be the gallery's.
    weights: Path = DEFAULT_WEIGHTS
    #: What the network runs on: cpu, cuda, cuda:1.
    device: str = "cpu"
    #: Folders that index jobs may take their sources from; none without any.
    roots: tuple[Path, ...] = ()
    #: Searches without a filter go through the fast tier, where it is measured to lose next to
    #: nothing on this gallery; answers say whether they are exact.
    fast: bool = False
    #: Seconds between looks at what other processes have put into the gallery.
    follow_s: Annotated[float, Field(gt=0)] = 0.25
    #: Whoever asks from this machine needs no key; for trying out, never beyond loopback.
    allow_local: bool = False
    #: Every search has to say why.
    require_reason: bool = False
    #: Of one request, pictures and all.
    body_bytes: Annotated[int, Field(gt=0)] = 32 << 20
    #: Of one picture, read from its header.
    pixels: Annotated[int, Field(gt=0)] = 50_000_000
    #: Pictures in one request.
    pictures: Annotated[int, Field(gt=0)] = 16
    #: Requests of one key, in the words of the `limits` package.
    rate: str = "600/minute"
    #: Most results of one search.
    most_results: Annotated[int, Field(gt=0)] = 1000
    #: Crops that are embedded together, at most.
    batch: Annotated[int, Field(gt=0)] = 16
    #: Requests that wait for the network, at most; more are refused with 429.
    queue: Annotated[int, Field(gt=0)] = 64
    #: Seconds after which the network counts as hanging.
    hang_s: Annotated[float, Field(gt=0)] = 30.0
