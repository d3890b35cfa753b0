"""Where Milvus is and how it is used, read from one URL."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from indexer.errors import IndexEngineError

_SCHEMES = ("milvus+http", "milvus+https", "milvus+file")

#: Index types, with what they are built with and what a search may be told, by the URL's names.
_BUILD: dict[str, dict[str, tuple[str, int]]] = {
    "FLAT": {},
    "HNSW": {"m": ("M", 32), "ef_construction": ("efConstruction", 200)},
    "IVF_FLAT": {"nlist": ("nlist", 1024)},
    "IVF_SQ8": {"nlist": ("nlist", 1024)},
}
_SEARCH: dict[str, dict[str, int]] = {
    "FLAT": {},
    "HNSW": {"ef": 200},
    "IVF_FLAT": {"nprobe": 64},
    "IVF_SQ8": {"nprobe": 64},
}
_CONSISTENCY = ("Strong", "Session", "Bounded", "Eventually")


@dataclass(frozen=True)
class MilvusAddress:
    """Where Milvus is, and how it is used.

    Attributes
    ----------
    uri
        What pymilvus connects to: http(s), or a file of milvus-lite.
    name
        What the collections' names begin with.
    index
        FLAT compares all vectors, and answers are exact; the others are approximate.
    consistency
        How recent the writes of other programs are that a search has to see.
    partition_days
        Days of capture in one partition; what is empty in SQL is dropped whole.
    """

    uri: str
    user: str = ""
    password: str = field(default="", repr=False)
    name: str = "binet"
    index: str = "FLAT"
    build: tuple[tuple[str, int], ...] = ()
    effort: tuple[tuple[str, int], ...] = ()
    consistency: str = "Session"
    partition_days: int = 30
    timeout_s: float = 10.0

    @property
    def exact(self) -> bool:
        """Whether the index compares all vectors."""
        return self.index == "FLAT"

    @property
    def is_server(self) -> bool:
        """Whether this is a server, not a file of milvus-lite."""
        return "://" in self.uri

    @classmethod
    def parse(cls, url: str) -> "MilvusAddress":
        """Read `milvus+http://HOST:PORT?index=HNSW&ef=200` or `milvus+file:FILE.db`.

        Raises
        ------
        IndexEngineError
            When it is no such address, or an option is not known.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise IndexEngineError(f"{url.split('?')[0]!r} is no address: {error}") from error
        if parts.scheme not in _SCHEMES:
            raise IndexEngineError(
                "An index is milvus+http://HOST:PORT, milvus+https://... or milvus+file:FILE.db"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme == "milvus+file":
            path = unquote(parts.path)
            if parts.netloc or not path.endswith(".db"):
                raise IndexEngineError("milvus+file:FILE.db needs a file whose name ends in .db")
            uri = str(Path(path).absolute())
        elif not host:
            raise IndexEngineError(f"{parts.scheme}:// needs a host: {parts.scheme}://HOST:PORT")
        else:
            shown = f"[{host}]" if ":" in host else host
            uri = f"{parts.scheme.removeprefix('milvus+')}://{shown}:{port or 19530}"
        return cls(
            uri,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            **_read_options(options),
        )


def _read_options(options: dict[str, str]) -> dict[str, Any]:
    index = options.pop("index", "FLAT").upper()
    if index not in _BUILD:
        raise IndexEngineError(f"index={index} is not one of {', '.join(_BUILD)}")
    read: dict[str, Any] = {"index": index}
    build, effort = _BUILD[index], _SEARCH[index]
    read["build"] = tuple(
        (theirs, _number(name, options.pop(name, str(default))))
        for name, (theirs, default) in build.items()
    )
    read["effort"] = tuple(
        (name, _number(name, options.pop(name, str(default)))) for name, default in effort.items()
    )
    if "partition_days" in options:
        read["partition_days"] = _number("partition_days", options.pop("partition_days"))
    if "timeout" in options:
        read["timeout_s"] = float(_number("timeout", options.pop("timeout")))
    if "consistency" in options:
        read["consistency"] = options.pop("consistency").capitalize()
        if read["consistency"] not in _CONSISTENCY:
            raise IndexEngineError(f"consistency is one of {', '.join(_CONSISTENCY)}")
    if "name" in options:
        read["name"] = options.pop("name")
        if not (read["name"].isidentifier() and read["name"].isascii() and len(read["name"]) < 64):
            raise IndexEngineError("name takes letters, digits and _, and begins with a letter")
    if options:
        known = ["index", *build, *effort, "name", "consistency", "partition_days", "timeout"]
        raise IndexEngineError(
            f"{next(iter(options))!r} is no option of {index}: it takes {', '.join(known)}"
        )
    return read


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1_000_000):
        raise IndexEngineError(f"{name}={text} must be a whole number above 0")
    return int(text)
