"""Rows of the audit on behalf of a request; without them there is no answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from indexer.errors import GalleryError
from service import audit
from service.keys import Key
from service.problems import ProblemError
from service.state import Service


@contextmanager
def writing(service: Service) -> Iterator[Connection]:
    """Write into the service's tables in one transaction, the audit's rows among them.

    Raises
    ------
    ProblemError
        503, when nothing can be written: nothing may be answered then.
    """
    try:
        with service.store.write() as connection:
            yield connection
    except GalleryError as error:
        raise ProblemError(
            503, "The audit cannot be written, so nothing is answered", {"Retry-After": "30"}
        ) from error


def record(service: Service, key: Key, event: str, detail: dict[str, Any]) -> int:
    """Write what a caller does into the audit; return the row's id.

    Raises
    ------
    ProblemError
        503, when it cannot be written: nothing may be answered then.
    """
    with writing(service) as connection:
        return audit.append(connection, key.caller, event, detail)
