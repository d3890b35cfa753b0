"""Leases: who works at a job or at an item of it, and until when nobody else may.

A lease is an owner and a moment on the database's clock. Its owner renews it; when it is over,
another may take the work, and the former owner can commit nothing any more: each of its batches
looks at the lease within its own transaction.
"""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Table, and_, or_, select, text, update

from indexer import schema
from indexer.database import Database, now_us
from indexer.errors import GalleryError
from model.errors import BINetError

#: Seconds for which work is nobody else's after its owner was last heard of.
LEASE_S = 60.0
#: Seconds between two renewals.
HEARTBEAT_S = LEASE_S / 3


class LeaseLostError(GalleryError):
    """Somebody else has taken the work over."""


def clock_us(connection: Connection) -> int:
    """Return the database's clock as microseconds since 1970, UTC; SQLite's is this machine's."""
    if connection.dialect.name == "sqlite":
        return now_us()
    query = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    found: int = connection.execute(query).scalar_one()
    return found


def end_us(connection: Connection) -> int:
    """Return when a lease ends that begins now."""
    return clock_us(connection) + round(LEASE_S * 1_000_000)


def new_owner() -> str:
    """Return a name that no other owner has, by which this machine can tell whether it lives."""
    pid = os.getpid()
    place = f"{socket.gethostname()[:100]} {_namespace()}"
    return f"{place} {pid} {_began(pid) or '-'} {secrets.token_hex(8)}"


def is_gone(owner: str | None) -> bool:
    """Tell whether an owner is known to have ended; nobody knows of those on other machines."""
    if owner is None:
        return True
    host, namespace, pid, began, _ = owner.rsplit(" ", 4)
    if host != socket.gethostname()[:100] or namespace != _namespace():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # Numbers of processes come again.
    return (_began(int(pid)) or "-") != began


def is_over(table: Table, now: int) -> ColumnElement[bool]:
    """Return whether nobody holds the lease of a row."""
    return or_(table.c.lease_until_us.is_(None), table.c.lease_until_us < now)


def renew(connection: Connection, job_id: int, owner: str) -> None:
    """Renew the leases that an owner has on a job and its items."""
    job, item = schema.job.c, schema.job_item.c
    own_job = (job.id == job_id, job.owner == owner)
    own_items = (item.job_id == job_id, item.owner == owner)
    for table, own in ((schema.job, own_job), (schema.job_item, own_items)):
        # Who else has one of the rows just now renews it, or does away with it.
        query = select(table.c.id).where(*own).with_for_update(skip_locked=True)
        ids = connection.execute(query).scalars().all()
        values = {"lease_until_us": end_us(connection)}
        connection.execute(update(table).where(table.c.id.in_(ids)).values(values))


def end_those_of_the_dead(connection: Connection) -> None:
    """End the leases whose owners are known to be gone: nobody has to wait for them."""
    now = clock_us(connection)
    for table in (schema.job, schema.job_item):
        held = and_(table.c.owner.is_not(None), table.c.lease_until_us >= now)
        owners = connection.execute(select(table.c.owner).where(held).distinct()).scalars()
        gone = [owner for owner in owners if is_gone(owner)]
        if gone:
            query = select(table.c.id).where(table.c.owner.in_(gone), held)
            ids = connection.execute(query.with_for_update(skip_locked=True)).scalars().all()
            connection.execute(update(table).where(table.c.id.in_(ids)).values(lease_until_us=None))


@contextmanager
def heartbeat(database: Database, job_id: int, owner: str) -> Iterator[None]:
    """Renew an owner's leases on a job and its items, in a thread of its own."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            # Whoever cannot be heard loses its lease, and learns of that at its next batch.
            with suppress(BINetError), database.claim() as connection:
                renew(connection, job_id, owner)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _namespace() -> str:
    """Return where numbers of processes are counted: containers may share a machine's name."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"


def _began(pid: int) -> str | None:
    """When a process began, in the kernel's own clock; None where it has ended, or nobody says."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    except (OSError, ValueError, IndexError):
        return None
