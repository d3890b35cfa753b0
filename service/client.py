"""A small client of the service, for programs: standard library only.

>>> client = Client("http://127.0.0.1:8000", key="binet_...")          # doctest: +SKIP
>>> for result in client.search(crops=["person.jpg"], k=10).results:   # doctest: +SKIP
...     print(result.score, result.frame.camera, result.frame.captured_at)
"""

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, TypeAdapter

from service.documents import (
    PREFIX,
    Box,
    CameraDocument,
    KeyDocument,
    NewKeyDocument,
    SearchDocument,
    StatsDocument,
)
from service.review_documents import CaseDocument, CaseSummary
from service.roles import Role

Picture = str | Path | bytes
_Document = TypeVar("_Document", bound=BaseModel)


class ServiceError(Exception):
    """The service refused; the message is its own.

    Attributes
    ----------
    status
        Of HTTP.
    retry_after_s
        When to ask again, where the service says so.
    """

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s


class Client:
    """Asks one service.

    Parameters
    ----------
    address
        Such as `http://127.0.0.1:8000`.
    key
        A key's secret; None where the service runs on this machine without keys.
    timeout_s
        Of one request.
    """

    def __init__(self, address: str, key: str | None = None, timeout_s: float = 60.0) -> None:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"{address!r} is no address of a service: http://HOST:PORT")
        self._address = address.rstrip("/")
        self._key = key
        self._timeout_s = timeout_s

    def search(
        self,
        crops: Sequence[Picture] = (),
        scene: Picture | None = None,
        box: Box | None = None,
        box_ids: Sequence[int] = (),
        not_crops: Sequence[Picture] = (),
        not_box_ids: Sequence[int] = (),
        k: int = 20,
        cameras: Sequence[str] = (),
        after: datetime | None = None,
        before: datetime | None = None,
        group_by: Literal["box", "frame", "appearance"] = "box",
        reason: str = "",
        case: str = "",
    ) -> SearchDocument:
        """Find similar people; see `POST /v1/search`.

        Raises
        ------
        ServiceError
            When the service refuses, or cannot be reached (status 0).
        """
        files = [("crop", crop) for crop in crops]
        files += [("not_crop", crop) for crop in not_crops]
        files += [("scene", scene)] if scene is not None else []
        fields: list[tuple[str, str]] = [("k", str(k)), ("group_by", group_by)]
        fields += [("box", ",".join(map(str, box)))] if box is not None else []
        fields += [("box_id", str(number)) for number in box_ids]
        fields += [("not_box_id", str(number)) for number in not_box_ids]
        fields += [("camera", name) for name in cameras]
        for name, moment in (("after", after), ("before", before)):
            fields += [(name, moment.isoformat())] if moment is not None else []
        fields += [(n, text) for n, text in (("reason", reason), ("case", case)) if text]
        body, kind = _form(fields, files)
        return self._document(SearchDocument, self._ask("POST", "/search", body, kind))

    def cameras(self) -> list[CameraDocument]:
        """List the cameras that the key may know of."""
        return TypeAdapter(list[CameraDocument]).validate_json(self._ask("GET", "/cameras"))

    def stats(self) -> StatsDocument:
        """Count what the key may know of."""
        return self._document(StatsDocument, self._ask("GET", "/stats"))

    def frame_picture(self, frame_id: int, draw: Sequence[int] = ()) -> bytes:
        """Return a frame as JPEG, with boxes drawn on it."""
        query = urlencode([("draw", box) for box in draw])
        return self._ask("GET", f"/frames/{frame_id}/image" + (f"?{query}" if query else ""))

    def crop(self, box_id: int) -> bytes:
        """Return a person cut out of their frame, as JPEG."""
        return self._ask("GET", f"/boxes/{box_id}/crop")

    def create_case(self, name: str) -> CaseDocument:
        """Make a case."""
        return self._document(CaseDocument, self._send("/cases", {"name": name}))

    def cases(self) -> list[CaseSummary]:
        """List the cases."""
        return TypeAdapter(list[CaseSummary]).validate_json(self._ask("GET", "/cases"))

    def case(self, case_id: int) -> CaseDocument:
        """Describe a case and what is in it."""
        return self._document(CaseDocument, self._ask("GET", f"/cases/{case_id}"))

    def propose(
        self, case_id: int, box_id: int, audit_id: int | None = None, note: str | None = None
    ) -> CaseDocument:
        """Put a result into a case; with the audit's number of the search that found it."""
        body = {"box_id": box_id, "audit_id": audit_id, "note": note}
        return self._document(CaseDocument, self._send(f"/cases/{case_id}/reviews", body))

    def confirm(self, case_id: int, box_id: int, note: str | None = None) -> CaseDocument:
        """Agree with a result of a case."""
        path = f"/cases/{case_id}/reviews/{box_id}/confirm"
        return self._document(CaseDocument, self._send(path, {"note": note}))

    def reject(self, case_id: int, box_id: int, note: str | None = None) -> CaseDocument:
        """Disagree with a result of a case."""
        path = f"/cases/{case_id}/reviews/{box_id}/reject"
        return self._document(CaseDocument, self._send(path, {"note": note}))

    def export_case(self, case_id: int) -> bytes:
        """Return a case as a ZIP file: pictures, JSON, hashes, the audit's rows."""
        return self._ask("GET", f"/cases/{case_id}/export")

    def create_key(
        self, name: str, role: Role = Role.VIEWER, cameras: Sequence[str] | None = None
    ) -> NewKeyDocument:
        """Make a key; its secret is in the answer, and nowhere else."""
        wanted = {"name": name, "role": role, "cameras": cameras}
        return self._document(NewKeyDocument, self._send("/keys", wanted))

    def list_keys(self) -> list[KeyDocument]:
        """List all keys."""
        return TypeAdapter(list[KeyDocument]).validate_json(self._ask("GET", "/keys"))

    def revoke_key(self, key_id: int) -> None:
        """End a key."""
        self._ask("DELETE", f"/keys/{key_id}")

    @staticmethod
    def _document(kind: type[_Document], data: bytes) -> _Document:
        return kind.model_validate_json(data)

    def _send(self, path: str, body: dict[str, Any]) -> bytes:
        return self._ask("POST", path, json.dumps(body).encode(), "application/json")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str | None = None
    ) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the address was looked at
            f"{self._address}{PREFIX}{path}", body, method=method
        )
        if kind is not None:
            request.add_header("Content-Type", kind)
        if self._key is not None:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except OSError as error:
            raise ServiceError(0, f"{self._address} cannot be reached: {error}") from error


def _refusal(error: urllib.error.HTTPError) -> ServiceError:
    try:
        detail = json.loads(error.read())["detail"]
    except (ValueError, KeyError, TypeError):
        detail = error.reason
    after: Any = error.headers.get("Retry-After")
    return ServiceError(error.code, detail, int(after) if after and after.isdigit() else None)


def _form(
    fields: Iterable[tuple[str, str]], files: Iterable[tuple[str, Picture]]
) -> tuple[bytes, str]:
    """Encode multipart/form-data; return the body and its type."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(head.encode() + value.encode() + b"\r\n")
    for name, picture in files:
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="picture"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        parts.append(head.encode() + data + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
