"""Keys: who may ask, for which cameras, and until when. Shown once; only their hash is kept."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from indexer.database import Database, now_us
from indexer.errors import GalleryError
from indexer.filters import from_us, to_us
from service import schema
from service.roles import Role

PREFIX = "binet_"


@dataclass(frozen=True)
class Key:
    """A key without its secret.

    Attributes
    ----------
    cameras
        Names of the cameras that it may know of; None for all.
    """

    id: int
    name: str
    role: Role
    cameras: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def caller(self) -> str:
        """Who it is in the audit."""
        return f"key {self.id} ({self.name})"

    def is_valid(self, at_us: int) -> bool:
        """Tell whether it is neither revoked nor expired at a time."""
        unexpired = self.expires_at is None or to_us(self.expires_at) > at_us
        return self.revoked_at is None and unexpired

    def may(self, role: Role) -> bool:
        """Tell whether it may do what a role may."""
        roles = list(Role)
        return roles.index(self.role) >= roles.index(role)


#: Whoever asks without a key, where that is allowed: on this machine, to try things out.
LOCAL = Key(0, "local", Role.ADMIN, None, from_us(0), None, None)


def create_key(
    database: Database,
    name: str,
    role: Role,
    cameras: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key; return it and its secret, which is nowhere else.

    Raises
    ------
    GalleryError
        When the name is empty or too long, or it would have expired already.
    """
    if not name.strip() or len(name) > 200:
        raise GalleryError("A key needs a name of 1 to 200 characters, to be told from others")
    now = now_us()
    if expires_at is not None and to_us(expires_at) <= now:
        raise GalleryError(f"{expires_at.isoformat()} is past: the key would never be valid")
    secret = PREFIX + secrets.token_urlsafe(32)
    values = {
        "name": name,
        "secret_sha256": _digest(secret),
        "role": role.value,
        "cameras": None if cameras is None else json.dumps(sorted(set(cameras))),
        "created_at_us": now,
        "expires_at_us": None if expires_at is None else to_us(expires_at),
    }
    with database.write() as connection:
        key_id = connection.execute(
            insert(schema.api_key).values(**values).returning(schema.api_key.c.id)
        ).scalar_one()
    return next(key for key in list_keys(database) if key.id == key_id), secret


def list_keys(database: Database) -> list[Key]:
    """Return all keys, expired and revoked ones too, oldest first."""
    return [_key(row) for row in _rows(database)]


def revoke_key(database: Database, key_id: int) -> None:
    """End a key.

    Raises
    ------
    GalleryError
        When there is no such key.
    """
    column = schema.api_key.c
    with database.write() as connection:
        done = connection.execute(
            update(schema.api_key)
            .where(column.id == key_id, column.revoked_at_us.is_(None))
            .values(revoked_at_us=now_us())
        )
        known = connection.execute(select(column.id).where(column.id == key_id)).first()
    if not done.rowcount and known is None:
        raise GalleryError(f"There is no key {key_id}")


def find_key(database: Database, secret: str) -> Key | None:
    """Return the key of a secret if it is valid now.

    The database is asked each time: a key that is revoked is refused by the next request.
    """
    digest = _digest(secret)
    found = None
    # All of them, in constant time each: how long it takes tells nothing.
    for row in _rows(database):
        if hmac.compare_digest(row.secret_sha256, digest):
            found = _key(row)
    return found if found is not None and found.is_valid(now_us()) else None


def _rows(database: Database) -> Sequence[Row[Any]]:
    with database.read() as connection:
        return connection.execute(select(schema.api_key).order_by(schema.api_key.c.id)).all()


def _key(row: Row[Any]) -> Key:
    return Key(
        row.id,
        row.name,
        Role(row.role),
        None if row.cameras is None else tuple(json.loads(row.cameras)),
        from_us(row.created_at_us),
        None if row.expires_at_us is None else from_us(row.expires_at_us),
        None if row.revoked_at_us is None else from_us(row.revoked_at_us),
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
