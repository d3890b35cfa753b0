"""Connections to the gallery's SQL: SQLite in a folder, or PostgreSQL. Migrates on opening.

One writer at a time: SQLite begins its writing transactions with the lock (BEGIN IMMEDIATE),
PostgreSQL takes an advisory lock. So rows appear in the order of their ids, and whoever has read
up to an id has missed none below it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from indexer.errors import GalleryError
from indexer.schema import metadata

#: Seconds that a writer waits for another before it gives up.
BUSY_TIMEOUT_S = 30

#: Any number of our own: PostgreSQL's advisory locks are shared by all users of a database.
_ADVISORY_LOCK = 0x62696E6574

#: Names a file with the password of PostgreSQL, for URLs that have none: a container's secret.
PASSWORD_FILE_VARIABLE = "BINET_DATABASE_PASSWORD_FILE"  # noqa: S105 - a name

#: Marks the connections whose transactions begin with the lock.
_WRITING = "binet_writing"


@dataclass(frozen=True)
class Tables:
    """Tables that are brought up to date together.

    Attributes
    ----------
    file_name
        Of SQLite's file in a gallery's folder.
    migrations
        Folder of the migrations, in order.
    version_table
        Where Alembic keeps how far they are: each set of tables its own.
    """

    metadata: MetaData
    file_name: str
    migrations: Path
    version_table: str = "alembic_version"


GALLERY = Tables(metadata, "gallery.db", Path(__file__).parent / "migrations" / "versions")


class Database:
    """The gallery's SQL.

    Attributes
    ----------
    file
        SQLite's; what is derived lies beside it. None with PostgreSQL.
    """

    def __init__(self, engine: Engine, file: Path | None) -> None:
        self.file = file
        self._engine = engine
        if self.is_sqlite:
            self._reader = engine
            self._writer = engine.execution_options(**{_WRITING: True})
        else:
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ")
            self._writer = engine.execution_options(isolation_level="READ COMMITTED")

    @classmethod
    def open(cls, url: str | Path, create: bool = False, tables: Tables = GALLERY) -> Self:
        """Connect, and bring the tables up to date.

        Parameters
        ----------
        url
            A folder, `sqlite:///FILE`, or `postgresql+psycopg://...`.
        create
            Make the gallery if there is none yet.
        tables
            Which are kept there.

        Raises
        ------
        GalleryError
            When there is no gallery, it cannot be reached, or a newer program has made it.
        """
        address = _address(url, tables.file_name)
        file = _sqlite_file(address, create) if _is_sqlite(address) else None
        try:
            engine = create_engine(address, **_engine_options(address))
        except (NoSuchModuleError, ArgumentError) as error:
            raise GalleryError(f"{_shown(address)} is no database that is known here") from error
        except ImportError as error:
            raise GalleryError(
                "PostgreSQL needs a driver that is not installed: pip install 'binet[postgres]'"
            ) from error
        if _is_sqlite(address):
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        database = cls(engine, file)
        try:
            _migrate(database, _shown(address), create, tables)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Read in one transaction: every statement in it sees the same committed state."""
        with _errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Write in one transaction, which no other writer interrupts.

        An exception inside undoes all of it.
        """
        with _errors(), self._writer.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            yield connection

    @contextmanager
    def claim(self) -> Iterator[Connection]:
        """Write who works at what, in a short transaction.

        PostgreSQL does so beside a writer, row by row: searches follow nothing that is written
        here. SQLite has one writer, and this is one.
        """
        with _errors(), self._writer.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'")
            yield connection

    @contextmanager
    def alone(self, number: int) -> Iterator[None]:
        """Let one process at a time be in here; others wait. It ends with its process, too.

        Parameters
        ----------
        number
            What is not to be done twice at a time.
        """
        if self.file is not None:
            with self.file.with_name(f"{self.file.name}.{number}.lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        key = _ADVISORY_LOCK + number
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        with _errors(), engine.connect() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({key})")
            try:
                yield
            finally:
                connection.exec_driver_sql(f"SELECT pg_advisory_unlock({key})")

    def last_ids(self, connection: Connection) -> dict[str, int]:
        """Return the last id that each table has given, deleted rows included."""
        tables = [table.name for table in metadata.tables.values() if "id" in table.c]
        if self.is_sqlite:
            rows = connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")
            given: dict[str, int] = {row.name: row.seq for row in rows}
            return {name: given.get(name, 0) for name in tables}
        query = text(
            "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(:name, 'id')), 0)"
        )
        return {name: connection.execute(query, {"name": name}).scalar_one() for name in tables}

    def raise_last_ids(self, connection: Connection, last_ids: dict[str, int]) -> None:
        """Give ids beyond these only."""
        for name, own in self.last_ids(connection).items():
            last = last_ids.get(name, 0)
            if last <= own:
                continue
            if self.is_sqlite:
                statements = [
                    "DELETE FROM sqlite_sequence WHERE name = :name",
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)",
                ]
            else:
                statements = ["SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)"]
            for statement in statements:
                connection.execute(text(statement), {"name": name, "last": last})

    def vacuum(self) -> None:
        """Give the space of what was deleted back, its bytes overwritten or gone."""
        statements = ["VACUUM FULL"]
        if self.is_sqlite:
            statements = ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]
        with _errors(), self._unmanaged() as cursor:
            for statement in statements:
                cursor.execute(statement)

    @contextmanager
    def _unmanaged(self) -> Iterator[Any]:
        """Give the driver's own cursor, outside of any transaction."""
        connection = self._engine.raw_connection()
        try:
            driver: Any = connection.driver_connection
            if not self.is_sqlite:
                driver.autocommit = True
            try:
                yield driver.cursor()
            finally:
                if not self.is_sqlite:
                    driver.autocommit = False
        except self._engine.dialect.loaded_dbapi.Error as error:
            raise DBAPIError(None, None, error) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def now_us() -> int:
    """Return the present as microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def _address(url: str | Path, file_name: str) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(Path(url) / file_name))
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise GalleryError(
            "A gallery is a folder, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        ) from error
    file = os.environ.get(PASSWORD_FILE_VARIABLE)
    if not file or address.password is not None or _is_sqlite(address):
        return address
    try:
        password = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise GalleryError(f"{PASSWORD_FILE_VARIABLE}={file} cannot be read: {reason}") from error
    return address.set(password=password)


def _is_sqlite(address: URL) -> bool:
    return address.get_backend_name() == "sqlite"


def _shown(address: URL) -> str:
    return address.render_as_string(hide_password=True)


def _sqlite_file(address: URL, create: bool) -> Path:
    if not address.database or address.database == ":memory:":
        raise GalleryError("A gallery in SQLite needs a file: sqlite:///FILE, or a folder")
    file = Path(address.database).absolute()
    if create:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GalleryError(f"{file.parent} cannot be made: {error.strerror}") from error
    elif not file.is_file():
        raise GalleryError(f"{file.parent}: there is no gallery; `binet index` makes one")
    return file


def _engine_options(address: URL) -> dict[str, Any]:
    options: dict[str, Any] = {"pool_size": 8, "max_overflow": 64}
    if _is_sqlite(address):
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
    return options


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions only at the first change, and never for a DDL statement.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(_WRITING)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _migrate(database: Database, shown: str, create: bool, tables: Tables) -> None:
    """Bring the tables to the newest migration; refuse those of a newer program."""
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("version_locations", str(tables.migrations))
    config.set_main_option("path_separator", "newline")
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}

    def is_current(connection: Connection) -> bool:
        context = MigrationContext.configure(
            connection, opts={"version_table": tables.version_table}
        )
        revision = context.get_current_revision()
        if revision is None:
            own = {*tables.metadata.tables, tables.version_table}
            there = set(inspect(connection).get_table_names())
            # Several sets of tables share PostgreSQL's database; a file is of one alone.
            if there & own or (there and database.is_sqlite):
                raise GalleryError(f"{shown} is a database, but not a gallery; give another place")
            if not create:
                raise GalleryError(f"{shown} holds no gallery; `binet index` makes one")
        elif revision not in known:
            raise GalleryError(f"{shown} was made by a newer version of binet: install that one")
        return revision == scripts.get_current_head()

    with database.read() as connection:
        if is_current(connection):
            return
    with database.write() as connection:
        # Another program may have migrated in between.
        if not is_current(connection):
            from alembic import command

            config.attributes["connection"] = connection
            config.attributes["tables"] = tables
            command.upgrade(config, "head")


@contextmanager
def _errors() -> Iterator[None]:
    """Say in one line what the database could not do."""
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        if "locked" in reason or "lock timeout" in reason:
            reason = f"another program has been writing for {BUSY_TIMEOUT_S} s; try again later"
        elif "is full" in reason:
            reason = "the disk is full; make room and run it again"
        raise GalleryError(f"The gallery's database: {reason}") from error
    except SQLAlchemyError as error:
        raise GalleryError(f"The gallery's database: {str(error).splitlines()[0]}") from error
