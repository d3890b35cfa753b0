"""Who did what, for good: rows that are only appended, each holding the hash of the one before it.

A row is changed, taken out or put in unnoticed only by computing all hashes after it again; keep
the last hash elsewhere (`binet audit verify` prints it) to notice that, too.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from indexer.database import Database, now_us
from indexer.filters import from_us
from service import schema

#: Before the first row.
START = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One row.

    Attributes
    ----------
    caller
        Number and name of the key, or "local" for whoever asks without one on this machine.
    detail
        What the event is about: no pictures, no embeddings.
    """

    id: int
    at: datetime
    caller: str
    event: str
    detail: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class Verified:
    """What a check of all rows found.

    Attributes
    ----------
    rows
        How many rows were checked.
    last_hash
        Of the last good row.
    broken_at
        Id of the first row that is not as it was written, or that is missing; None for none.
    """

    rows: int
    last_hash: str
    broken_at: int | None


def append(connection: Connection, caller: str, event: str, detail: dict[str, Any]) -> int:
    """Append a row within a writing transaction; return its id."""
    audit = schema.audit.c
    last = connection.execute(
        select(audit.id, audit.hash).order_by(audit.id.desc()).limit(1)
    ).one_or_none()
    row_id, previous = (last.id + 1, last.hash) if last else (1, START)
    values = {
        "id": row_id,
        "at_us": now_us(),
        "caller": caller,
        "event": event,
        "detail": json.dumps(detail, sort_keys=True, ensure_ascii=False, separators=(",", ":")),
        "previous": previous,
    }
    connection.execute(insert(schema.audit).values(**values, hash=_hash(values)))
    return row_id


def entries(database: Database, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
    """Return the newest rows, newest first; those before an id where one is given."""
    query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(schema.audit.c.id < before)
    with database.read() as connection:
        return [_entry(row) for row in connection.execute(query)]


def rows_about(database: Database, case: str, caller: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a case as they were hashed, with their hashes; one caller's, where given.

    A row's hash is the SHA-256 of its other fields as JSON with sorted keys.
    """
    query = select(schema.audit).order_by(schema.audit.c.id)
    if caller is not None:
        query = query.where(schema.audit.c.caller == caller)
    with database.read() as connection:
        return [
            dict(row._mapping)
            for row in connection.execute(query.execution_options(yield_per=1000))
            if json.loads(row.detail).get("case") == case
        ]


def verify(database: Database) -> Verified:
    """Compute all hashes again."""
    rows, previous = 0, START
    query = select(schema.audit).order_by(schema.audit.c.id).execution_options(yield_per=1000)
    with database.read() as connection, connection.execute(query) as all_rows:
        for row in all_rows:
            values = {
                name: getattr(row, name)
                for name in ("id", "at_us", "caller", "event", "detail", "previous")
            }
            if row.id != rows + 1 or row.previous != previous or row.hash != _hash(values):
                return Verified(rows, previous, rows + 1)
            rows, previous = rows + 1, row.hash
    return Verified(rows, previous, None)


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        row.id, from_us(row.at_us), row.caller, row.event, json.loads(row.detail), row.hash
    )
