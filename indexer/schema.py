"""The gallery's tables: what is true. Vector index, columns and snapshots are derived from them.

Times are whole microseconds since 1970 in UTC: exact, quick to load, and the same in SQLite and
PostgreSQL. A change of these tables goes with a migration (`indexer/migrations`); a test compares
the two.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

#: SQLite counts up by itself only in a column of the type INTEGER.
_BIG = BigInteger().with_variant(Integer, "sqlite")


class EncoderState(StrEnum):
    """What an encoder's embeddings are for; exactly one encoder at most is active."""

    ACTIVE = "active"
    BUILDING = "building"
    RETIRED = "retired"


class SourceState(StrEnum):
    """How far a source has been indexed."""

    INDEXING = "indexing"
    COMPLETE = "complete"
    FAILED = "failed"


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TombstoneKind(StrEnum):
    """What a tombstone stands for."""

    BOX = "box"
    FRAME = "frame"
    SOURCE = "source"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


# Ids are never given twice (AUTOINCREMENT, sequences): what is derived from the tables follows
# them by id, and the id of something deleted must not come back as something else.

camera = Table(
    "camera",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    sqlite_autoincrement=True,
)

encoder = Table(
    "encoder",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("weights_sha256", String(64), nullable=False),
    Column("preprocess_sha256", String(64), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    UniqueConstraint("weights_sha256", "preprocess_sha256"),
    _one_of("state", EncoderState),
    # No search mixes encoders, and it begins here: SQL itself refuses a second active one.
    Index(
        "ix_encoder_active",
        "state",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
    sqlite_autoincrement=True,
)

source = Table(
    "source",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("camera_id", BigInteger, ForeignKey("camera.id"), nullable=False),
    Column("uri", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("content_sha256", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    UniqueConstraint("camera_id", "content_sha256"),
    UniqueConstraint("camera_id", "uri", "version"),
    _one_of("state", SourceState),
    sqlite_autoincrement=True,
)

frame = Table(
    "frame",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("source_id", BigInteger, ForeignKey("source.id"), nullable=False),
    # Number of the frame, or of the picture, in its source.
    Column("position", BigInteger, nullable=False),
    # Seconds in the container's own clock, as an exact fraction; null without timestamps.
    Column("pts_numerator", BigInteger),
    Column("pts_denominator", BigInteger),
    Column("captured_at_us", BigInteger, nullable=False),
    # Where captured_at comes from, for example "given", "exif", "name", "file".
    Column("clock", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("content_sha256", String(64), nullable=False),
    UniqueConstraint("source_id", "position"),
    Index(None, "captured_at_us"),
    sqlite_autoincrement=True,
)

# Which frames an encoder has seen, those without people too: so that work is resumed, never
# repeated, and a new encoder can be built beside the old one.
indexed = Table(
    "indexed",
    metadata,
    Column("frame_id", BigInteger, ForeignKey("frame.id"), primary_key=True, autoincrement=False),
    Column(
        "encoder_id", BigInteger, ForeignKey("encoder.id"), primary_key=True, autoincrement=False
    ),
    Column("boxes", Integer, nullable=False),
)

box = Table(
    "box",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("frame_id", BigInteger, ForeignKey("frame.id"), nullable=False),
    Column("encoder_id", BigInteger, ForeignKey("encoder.id"), nullable=False),
    # Of the frame, once more: filters are loaded without a join.
    Column("source_id", BigInteger, nullable=False),
    Column("camera_id", BigInteger, nullable=False),
    Column("captured_at_us", BigInteger, nullable=False),
    # Pixels of the scene.
    Column("x1", Float, nullable=False),
    Column("y1", Float, nullable=False),
    Column("x2", Float, nullable=False),
    Column("y2", Float, nullable=False),
    Column("score", Float, nullable=False),
    # float16, little-endian.
    Column("embedding", LargeBinary, nullable=False),
    Index(None, "frame_id"),
    Index(None, "encoder_id"),
    sqlite_autoincrement=True,
)

# What was deleted, in the order of deletion: an index, a snapshot or a restored backup replays it.
tombstone = Table(
    "tombstone",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("target_id", BigInteger, nullable=False),
    Column("deleted_at_us", BigInteger, nullable=False),
    _one_of("kind", TombstoneKind),
    UniqueConstraint("kind", "target_id"),
    sqlite_autoincrement=True,
)

# One row for each transaction that changes what a search can find. The random token tells two
# histories apart: a snapshot whose token is not here was not made from this database, for example
# since an older backup was put in its place.
revision = Table(
    "revision",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("token", String(32), nullable=False),
    Column("made_at_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

job = Table(
    "job",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    # What is to be done, as JSON.
    Column("request", Text, nullable=False),
    Column("discovered", BigInteger, nullable=False),
    Column("indexed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("reason", Text),
    Column("created_at_us", BigInteger, nullable=False),
    Column("started_at_us", BigInteger),
    Column("finished_at_us", BigInteger),
    # Who runs it, until when nobody else may (see `indexer.leases`), and how often it goes back
    # into the queue when whoever ran it is not heard of any more.
    Column("owner", String(255)),
    Column("lease_until_us", BigInteger),
    Column("tries_left", Integer, nullable=False, server_default=text("0")),
    _one_of("state", JobState),
    sqlite_autoincrement=True,
)

# What is left to do of a job, in the pieces that indexers take.
job_item = Table(
    "job_item",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("job_id", BigInteger, ForeignKey("job.id"), nullable=False),
    # Compressed JSON.
    Column("files", LargeBinary, nullable=False),
    # A bit for each file that is through.
    Column("through", LargeBinary, nullable=False),
    # Of the files, for the progress.
    Column("bytes", BigInteger, nullable=False),
    Column("owner", String(255)),
    Column("lease_until_us", BigInteger),
    Index(None, "job_id"),
    sqlite_autoincrement=True,
)

job_failure = Table(
    "job_failure",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("job_id", BigInteger, ForeignKey("job.id"), nullable=False),
    Column("uri", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("failed_at_us", BigInteger, nullable=False),
    Index(None, "job_id"),
    sqlite_autoincrement=True,
)

# What belongs to the gallery as a whole, such as where its pictures are kept.
setting = Table(
    "setting",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

# Frames that are kept whatever the retention says: those that match every column that is set.
hold = Table(
    "hold",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("camera_id", BigInteger),
    Column("source_id", BigInteger),
    Column("frame_id", BigInteger),
    Column("after_us", BigInteger),
    Column("before_us", BigInteger),
    Column("created_at_us", BigInteger, nullable=False),
    Column("released_at_us", BigInteger),
    sqlite_autoincrement=True,
)
