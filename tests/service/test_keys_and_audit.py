"""Keys and the audit, without HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, insert, select, update

from indexer.database import Database, now_us
from indexer.errors import GalleryError
from service import audit, schema
from service.keys import LOCAL, create_key, find_key, list_keys, revoke_key
from service.roles import Role
from service.schema import SERVICE


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.open(tmp_path, create=True, tables=SERVICE)
    yield made
    made.close()


def test_migrations_make_the_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": SERVICE.version_table}
        )
        assert compare_metadata(context, schema.metadata) == []


# --- keys -------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_only_its_hash_is_kept(database: Database, tmp_path: Path) -> None:
    key, secret = create_key(database, "desk", Role.OPERATOR, ["yard", "door", "yard"])
    assert len(secret) > 40
    assert key.cameras == ("door", "yard")
    assert find_key(database, secret) == key == list_keys(database)[0]
    assert find_key(database, secret[:-1]) is None
    assert find_key(database, "") is None
    database.close()
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_revoked_and_expired_keys_are_refused_at_once(database: Database) -> None:
    _, secret = create_key(database, "a", Role.VIEWER)
    later = datetime.now(UTC) + timedelta(hours=1)
    timed, other = create_key(database, "b", Role.VIEWER, expires_at=later)
    assert find_key(database, other) == timed
    revoke_key(database, 1)
    revoke_key(database, 1)  # once more changes nothing
    assert find_key(database, secret) is None
    with database.write() as connection:
        connection.execute(update(schema.api_key).values(expires_at_us=now_us() - 1))
    assert find_key(database, other) is None
    with pytest.raises(GalleryError, match="no key 9"):
        revoke_key(database, 9)
    with pytest.raises(GalleryError, match="never be valid"):
        create_key(database, "c", Role.VIEWER, expires_at=later - timedelta(hours=2))
    with pytest.raises(GalleryError, match="needs a name"):
        create_key(database, " ", Role.VIEWER)


def test_each_role_may_what_those_before_it_may(database: Database) -> None:
    rows = [[create_key(database, role, role)[0].may(asked) for asked in Role] for role in Role]
    assert rows == [[True, False, False], [True, True, False], [True, True, True]]
    assert LOCAL.may(Role.ADMIN)


# --- audit ------------------------------------------------------------------------------------


def write(database: Database, rows: int) -> None:
    for number in range(rows):
        with database.write() as connection:
            assert audit.append(connection, "key 1 (desk)", "search", {"n": number}) == number + 1


def test_rows_are_chained_by_their_hashes(database: Database) -> None:
    assert audit.verify(database) == audit.Verified(0, audit.START, None)
    write(database, 5)
    found = audit.entries(database, limit=2)
    assert [entry.id for entry in found] == [5, 4]
    assert found[0].detail == {"n": 4}
    assert audit.verify(database) == audit.Verified(5, found[0].hash, None)
    assert [entry.id for entry in audit.entries(database, before=3)] == [2, 1]


EDITS = {
    "changed": update(schema.audit).where(schema.audit.c.id == 3).values(detail='{"n":9}'),
    "other caller": update(schema.audit).where(schema.audit.c.id == 3).values(caller="nobody"),
    "other time": update(schema.audit).where(schema.audit.c.id == 3).values(at_us=5),
    "taken out": delete(schema.audit).where(schema.audit.c.id == 3),
    "hash": update(schema.audit).where(schema.audit.c.id == 3).values(hash="0" * 64),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_found(database: Database, edit: str) -> None:
    write(database, 5)
    with database.write() as connection:
        connection.execute(EDITS[edit])
    assert audit.verify(database).broken_at == 3


def test_a_row_put_in_is_found(database: Database) -> None:
    write(database, 3)
    with database.write() as connection:
        last = connection.execute(select(schema.audit).where(schema.audit.c.id == 3)).one()
        values = {**last._mapping, "id": 4}
        connection.execute(insert(schema.audit).values(**values))
    assert audit.verify(database).broken_at == 4
