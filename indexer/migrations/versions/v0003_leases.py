"""Leases of jobs, and the items that several indexers share a job by."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns and the table; a job that runs meanwhile has no lease, and is taken over."""
    op.add_column("job", sa.Column("owner", sa.String(length=255), nullable=True))
    op.add_column("job", sa.Column("lease_until_us", sa.BigInteger(), nullable=True))
    op.add_column(
        "job", sa.Column("tries_left", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    # Those were queued by a service.
    op.execute("UPDATE job SET tries_left = 3 WHERE state = 'queued'")
    op.create_table(
        "job_item",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.LargeBinary(), nullable=False),
        sa.Column("through", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_item_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_item")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_job_item_job_id"), "job_item", ["job_id"], unique=False)
