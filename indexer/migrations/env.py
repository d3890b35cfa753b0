"""Alembic's entry: runs the migrations inside the transaction that `indexer.database` opened.

For development, `alembic revision` needs a URL that it can connect to; the product has none here.
"""

from alembic import context

tables = context.config.attributes["tables"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=tables.version_table,
    # SQLite can, once the driver no longer commits by itself (`indexer.database`).
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
