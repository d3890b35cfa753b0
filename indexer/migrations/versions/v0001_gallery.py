"""The gallery's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "camera",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_camera")),
        sa.UniqueConstraint("name", name=op.f("uq_camera_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "encoder",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("preprocess_sha256", sa.String(length=64), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'building', 'retired')", name=op.f("ck_encoder_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_encoder")),
        sa.UniqueConstraint(
            "weights_sha256",
            "preprocess_sha256",
            name=op.f("uq_encoder_weights_sha256_preprocess_sha256"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_encoder_active",
        "encoder",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "hold",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("camera_id", sa.BigInteger(), nullable=True),
        sa.Column("source_id", sa.BigInteger(), nullable=True),
        sa.Column("frame_id", sa.BigInteger(), nullable=True),
        sa.Column("after_us", sa.BigInteger(), nullable=True),
        sa.Column("before_us", sa.BigInteger(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("released_at_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hold")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("discovered", sa.BigInteger(), nullable=False),
        sa.Column("indexed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("started_at_us", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_us", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled')",
            name=op.f("ck_job_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "revision",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("made_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revision")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tombstone",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target_id", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('box', 'frame', 'source')", name=op.f("ck_tombstone_kind_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tombstone")),
        sa.UniqueConstraint("kind", "target_id", name=op.f("uq_tombstone_kind_target_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_failure",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failed_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_failure_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_failure")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_job_failure_job_id"), "job_failure", ["job_id"], unique=False)
    op.create_table(
        "source",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("camera_id", sa.BigInteger(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('indexing', 'complete', 'failed')", name=op.f("ck_source_state_known")
        ),
        sa.ForeignKeyConstraint(
            ["camera_id"], ["camera.id"], name=op.f("fk_source_camera_id_camera")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source")),
        sa.UniqueConstraint(
            "camera_id", "content_sha256", name=op.f("uq_source_camera_id_content_sha256")
        ),
        sa.UniqueConstraint(
            "camera_id", "uri", "version", name=op.f("uq_source_camera_id_uri_version")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "frame",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("pts_numerator", sa.BigInteger(), nullable=True),
        sa.Column("pts_denominator", sa.BigInteger(), nullable=True),
        sa.Column("captured_at_us", sa.BigInteger(), nullable=False),
        sa.Column("clock", sa.String(length=16), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_frame_source_id_source")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_frame")),
        sa.UniqueConstraint("source_id", "position", name=op.f("uq_frame_source_id_position")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_frame_captured_at_us"), "frame", ["captured_at_us"], unique=False)
    op.create_table(
        "box",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("frame_id", sa.BigInteger(), nullable=False),
        sa.Column("encoder_id", sa.BigInteger(), nullable=False),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("camera_id", sa.BigInteger(), nullable=False),
        sa.Column("captured_at_us", sa.BigInteger(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=False),
        sa.Column("y1", sa.Float(), nullable=False),
        sa.Column("x2", sa.Float(), nullable=False),
        sa.Column("y2", sa.Float(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["encoder.id"], name=op.f("fk_box_encoder_id_encoder")
        ),
        sa.ForeignKeyConstraint(["frame_id"], ["frame.id"], name=op.f("fk_box_frame_id_frame")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_box")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_box_encoder_id"), "box", ["encoder_id"], unique=False)
    op.create_index(op.f("ix_box_frame_id"), "box", ["frame_id"], unique=False)
    op.create_table(
        "indexed",
        sa.Column("frame_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("encoder_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("boxes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"], ["encoder.id"], name=op.f("fk_indexed_encoder_id_encoder")
        ),
        sa.ForeignKeyConstraint(["frame_id"], ["frame.id"], name=op.f("fk_indexed_frame_id_frame")),
        sa.PrimaryKeyConstraint("frame_id", "encoder_id", name=op.f("pk_indexed")),
    )
