"""A PostgreSQL server of our own, and galleries in it instead of in SQLite's files.

With BINET_TEST_DATABASE=postgres the folder of a gallery stands for a database of that server
(`use`): the tests stay as they are, and what they start as processes does the same.
"""

import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from indexer.database import GALLERY, Database, Tables
from indexer.media_store import media_url, set_media_url

BINARIES = Path("/usr/lib/postgresql")

#: Whether this run's galleries are in PostgreSQL.
WANTED = os.environ.get("BINET_TEST_DATABASE") == "postgres"
#: Where processes that tests start find the server.
SERVER = "BINET_TEST_SERVER"

#: The folders that databases stand for.
FOLDERS: WeakKeyDictionary[Database, Path] = WeakKeyDictionary()

#: What is about SQLite's file: its pragmas, its snapshots, its damage.
sqlite_only = pytest.mark.skipif(WANTED, reason="this is about SQLite's file")


def programs() -> Path:
    """Folder of the server's programs; skips where there are none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'binet[postgres]'")
    found = sorted(BINARIES.glob("*/bin/pg_ctl")) or [Path(shutil.which("pg_ctl") or "")]
    if not (found[-1].parent / "initdb").is_file():
        pytest.skip("no PostgreSQL server is installed here: apt-get install postgresql")
    return found[-1].parent


@contextmanager
def server() -> Iterator[str]:
    """A server on a free port; its URL."""
    found = programs()
    # Not in pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as folder, _serve(found, Path(folder)) as url:
        yield url


@contextmanager
def _serve(found: Path, folder: Path) -> Iterator[str]:
    user: str | None = None
    if os.getuid() == 0:
        # PostgreSQL refuses to run as root.
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [str(found / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(
            command, user=user, capture_output=True, text=True, cwd=folder, check=False
        )
        if done.returncode:
            pytest.skip(f"PostgreSQL cannot be started here: {done.stderr.strip()[-200:]}")

    run("initdb", "--auth=trust", "--username=postgres", "-E", "UTF8", "--no-locale", "--no-sync")
    options = (
        f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=300"
    )
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "-w", "stop")


@contextmanager
def new_database(server_url: str, name: str) -> Iterator[str]:
    """Another database of a server."""
    import psycopg

    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield server_url.rpartition("/")[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def use(server_url: str, patch: pytest.MonkeyPatch) -> None:
    """Let the folder of a gallery stand for a database of a server, in this process."""
    original = Database.open.__func__  # type: ignore[attr-defined]

    def open_there(
        cls: type[Database], url: str | Path, create: bool = False, tables: Tables = GALLERY
    ) -> Database:
        if not isinstance(url, Path) and "://" in url:
            opened: Database = original(cls, url, create, tables)
            return opened
        made: Database = original(cls, _url_for(server_url, Path(url)), create, tables)
        FOLDERS[made] = Path(url)
        if create and tables is GALLERY and media_url(made) is None:
            # SQLite's has one beside its file.
            set_media_url(made, str(Path(url).absolute() / "media"))
        return made

    patch.setattr(Database, "open", classmethod(open_there))
    patch.setenv(SERVER, server_url)


def use_from_environment() -> None:
    """Do as the process does that has started this one."""
    if SERVER in os.environ:
        use(os.environ[SERVER], pytest.MonkeyPatch())


def url_of(folder: Path) -> str:
    """URL of a gallery for a process that knows nothing of this module."""
    return _url_for(os.environ[SERVER], folder) if WANTED else str(folder)


def _url_for(server_url: str, folder: Path) -> str:
    """URL of the database for a folder; it is made if it is not there."""
    import psycopg

    name = "g" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:20]
    plain = server_url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(query, (name,)).fetchone() is None:
            connection.execute(f"CREATE DATABASE {name}")
    return f"{server_url.rpartition('/')[0]}/{name}"
