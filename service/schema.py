"""The service's own tables: keys, audit, cases. Beside the gallery, with migrations of their own.

Times are whole microseconds since 1970 in UTC, as in the gallery.
"""

from enum import StrEnum
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from indexer.database import Tables

_BIG = BigInteger().with_variant(Integer, "sqlite")


class ReviewState(StrEnum):
    """How far people agree that a result shows who was looked for."""

    PROPOSED = "proposed"
    CONFIRMED_ONCE = "confirmed once"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("name", String(200), nullable=False),
    # SHA-256 of the secret, which itself is 256 random bits: there is nothing to guess.
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    # Names of cameras as JSON; null for all.
    Column("cameras", Text),
    Column("created_at_us", BigInteger, nullable=False),
    Column("expires_at_us", BigInteger),
    Column("revoked_at_us", BigInteger),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role_known"),
    sqlite_autoincrement=True,
)

# Rows are only ever appended; each holds the hash of the one before it.
audit = Table(
    "audit",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("caller", String(200), nullable=False),
    Column("event", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

review_case = Table(
    "review_case",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at_us", BigInteger, nullable=False),
    Column("created_by", String(200), nullable=False),
    sqlite_autoincrement=True,
)

review = Table(
    "review",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("case_id", BigInteger, ForeignKey("review_case.id"), nullable=False),
    # Of the gallery, which may lie in another database: no foreign key.
    Column("box_id", BigInteger, nullable=False),
    Column("camera_id", BigInteger, nullable=False),
    Column("score", Float),
    Column("state", String(16), nullable=False),
    # Ids of keys; 0 for whoever asks without one, on this machine.
    Column("proposed_by", BigInteger, nullable=False),
    Column("first_by", BigInteger),
    Column("second_by", BigInteger),
    Column("rejected_by", BigInteger),
    Column("note", Text),
    Column("changed_at_us", BigInteger, nullable=False),
    UniqueConstraint("case_id", "box_id"),
    CheckConstraint(
        "state IN ('proposed', 'confirmed once', 'confirmed', 'rejected')", name="state_known"
    ),
    sqlite_autoincrement=True,
)

SERVICE = Tables(
    metadata, "service.db", Path(__file__).parent / "migrations", "service_alembic_version"
)
