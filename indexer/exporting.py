"""`binet gallery export`: the boxes of a gallery as a file. Without embeddings.

An embedding finds its person again, in any gallery of the same weights: it stays here, where
deletion reaches it.
"""

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from sqlalchemy import Connection, Row, select

from indexer import schema
from indexer.database import Database
from indexer.errors import GalleryError
from indexer.filters import Filter, from_us
from indexer.frame_filter import frames_where
from indexer.ingest import active_encoder
from model.files import replacing

Format = Literal["jsonl", "csv", "coco", "parquet"]

_ROWS = 4096


def export(database: Database, path: Path, kind: Format, wanted: Filter) -> int:
    """Write the active encoder's boxes in the frames that a filter allows; return how many.

    The file is there whole, or as it was before.

    Raises
    ------
    GalleryError
        When it cannot be written, or Parquet's library is not installed.
    EncoderError
        When no encoder is active.
    """
    try:
        with replacing(path) as file, database.read() as connection:
            if kind == "parquet":
                count = _write_parquet(connection, file, wanted)
            else:
                text = io.TextIOWrapper(file, encoding="utf-8", newline="")
                count = _TEXT_WRITERS[kind](connection, text, wanted)
                text.detach()
    except OSError as error:
        raise GalleryError(f"{path} cannot be written: {error.strerror or error}") from error
    return count


def _rows(connection: Connection, wanted: Filter) -> Iterator[dict[str, Any]]:
    """Give boxes by frame, with everything that is known of them."""
    box, frame, source = schema.box.c, schema.frame.c, schema.source.c
    query = (
        select(
            *(box.id.label("box_id"), box.frame_id, frame.source_id, frame.position),
            *(schema.camera.c.name.label("camera"), source.uri, source.content_sha256),
            *(frame.captured_at_us, frame.clock, frame.pts_numerator, frame.pts_denominator),
            *(frame.width, frame.height, box.x1, box.y1, box.x2, box.y2, box.score),
        )
        .join(schema.frame, frame.id == box.frame_id)
        .join(schema.source, source.id == frame.source_id)
        .join(schema.camera, schema.camera.c.id == source.camera_id)
        .where(box.encoder_id == active_encoder(connection).id, frames_where(wanted))
        .order_by(box.frame_id, box.id)
        .execution_options(yield_per=_ROWS)
    )
    if wanted.min_score is not None:
        query = query.where(box.score >= wanted.min_score)
    for row in connection.execute(query):
        yield _values(row)


def _values(row: Row[Any]) -> dict[str, Any]:
    values = dict(row._mapping)
    numerator, denominator = values.pop("pts_numerator"), values.pop("pts_denominator")
    values["captured_at"] = from_us(values.pop("captured_at_us")).isoformat()
    values["pts_s"] = None if numerator is None else numerator / denominator
    return values


def _write_jsonl(connection: Connection, file: TextIO, wanted: Filter) -> int:
    count = 0
    for count, values in enumerate(_rows(connection, wanted), start=1):  # noqa: B007
        file.write(json.dumps(values) + "\n")
    return count


_COLUMNS = (
    *("box_id", "frame_id", "source_id", "camera", "uri", "content_sha256", "position"),
    *("captured_at", "clock", "pts_s", "width", "height", "x1", "y1", "x2", "y2", "score"),
)


def _write_csv(connection: Connection, file: TextIO, wanted: Filter) -> int:
    writer = csv.DictWriter(file, _COLUMNS)
    writer.writeheader()
    count = 0
    for count, values in enumerate(_rows(connection, wanted), start=1):  # noqa: B007
        writer.writerow(values)
    return count


def _write_parquet(connection: Connection, file: BinaryIO, wanted: Filter) -> int:
    """Write the columns of the CSV with their types, a row group every few thousand boxes."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise GalleryError(
            "Parquet needs pyarrow: pip install 'binet[parquet]', or export another format"
        ) from error
    kinds = {
        **dict.fromkeys(("box_id", "frame_id", "source_id", "position"), pyarrow.int64()),
        **dict.fromkeys(("camera", "uri", "content_sha256", "clock"), pyarrow.string()),
        "captured_at": pyarrow.timestamp("us", "UTC"),
        "pts_s": pyarrow.float64(),
        **dict.fromkeys(("width", "height"), pyarrow.int32()),
        **dict.fromkeys(("x1", "y1", "x2", "y2", "score"), pyarrow.float32()),
    }
    form = pyarrow.schema([(name, kinds[name]) for name in _COLUMNS])
    count, rows = 0, _rows(connection, wanted)
    with pyarrow.parquet.ParquetWriter(file, form) as writer:
        while part := list(islice(rows, _ROWS)):
            for values in part:
                values["captured_at"] = datetime.fromisoformat(values["captured_at"])
            writer.write_table(pyarrow.Table.from_pylist(part, form))
            count += len(part)
    return count


def _write_coco(connection: Connection, file: TextIO, wanted: Filter) -> int:
    """Write frames as images and boxes as annotations; frames without people are left out."""
    images: dict[int, dict[str, Any]] = {}
    annotations = []
    for values in _rows(connection, wanted):
        frame_id, width, height = values["frame_id"], values["x2"], values["y2"]
        width, height = width - values["x1"], height - values["y1"]
        images[frame_id] = {
            "id": frame_id,
            "file_name": values["uri"],
            **{key: values[key] for key in ("width", "height", "camera", "position", "pts_s")},
            "captured_at": values["captured_at"],
        }
        annotations.append(
            {
                "id": values["box_id"],
                "image_id": frame_id,
                "category_id": 1,
                "bbox": [values["x1"], values["y1"], width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": values["score"],
            }
        )
    document = {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    json.dump(document, file)
    return len(annotations)


_TEXT_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "coco": _write_coco}
