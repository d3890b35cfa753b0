"""The gallery's tables, step by step: Alembic's environment and its migrations."""
