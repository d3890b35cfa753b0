"""A case as one ZIP file: pictures, what was agreed on them, the audit's rows, and hashes."""

import hashlib
import json
import zipfile
from datetime import UTC, datetime
from typing import IO, Any

import numpy as np

from indexer.draw import draw_boxes
from indexer.errors import MediaError
from service import audit
from service.frames import as_jpeg
from service.keys import Key
from service.review_documents import CaseDocument, ReviewDocument
from service.state import Service

SUMS = "SHA256SUMS"
README = """A case exported from BINet.

case.json    the results and who agreed on them; keys are named by their numbers
frames/      the frames, with the box of each result; named by the box
crops/       the people, cut out; named by the box
audit.jsonl  searches and reviews of this case as the audit holds them. The hash of a row is the
             SHA-256 of its other fields as JSON with sorted keys; previous is the hash of the row
             before it, which may belong to another case
SHA256SUMS   hashes of all files: sha256sum -c SHA256SUMS. Its own hash is in the service's audit

Results are similar people; nobody is identified. "confirmed" means that two keys agreed.
"""


def export_case(service: Service, key: Key, document: CaseDocument, file: IO[bytes]) -> str:
    """Write the ZIP into a file; return the hash of its SHA256SUMS.

    A key with cameras gets the audit's rows of its own only: others may tell of other cameras.
    """
    sums: list[str] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(name, data)
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")

        missing: dict[int, str] = {}
        for review in document.reviews:
            try:
                for name, data in _pictures(service, review):
                    add(name, data)
            except MediaError as error:
                missing[review.box_id] = str(error)
        content: dict[str, Any] = {
            **document.model_dump(mode="json"),
            "meaning": "similar, not identified",
            "exported_at": datetime.now(UTC).isoformat(),
            "exported_by": key.caller,
            "pictures_missing": missing,
        }
        add("case.json", json.dumps(content, indent=2).encode())
        own = None if key.cameras is None else key.caller
        rows = audit.rows_about(service.store, document.name, own)
        add("audit.jsonl", "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())
        add("README.txt", README.encode())
        listed = "".join(sums).encode()
        archive.writestr(SUMS, listed)
    return hashlib.sha256(listed).hexdigest()


def _pictures(service: Service, review: ReviewDocument) -> list[tuple[str, bytes]]:
    found = review.result
    if found is None:
        return []
    with service.media() as media:
        frame = media.frame(found.frame.id)
        crop = media.crop(found.box_id)
    drawn = draw_boxes(frame, np.array([found.box]), np.array([found.detection_score]))
    return [
        (f"frames/{found.box_id}.jpg", as_jpeg(drawn)),
        (f"crops/{found.box_id}.jpg", as_jpeg(crop)),
    ]
