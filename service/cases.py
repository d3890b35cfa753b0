"""Cases: results that people look at, agree upon and take with them.

A result is proposed, confirmed by one key and confirmed by a second one, or rejected by anybody;
every step is a row of the audit, written with it or not at all.
"""

from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from indexer.database import now_us
from indexer.filters import from_us
from service import audit, schema
from service.keys import Key
from service.problems import ProblemError
from service.review_documents import CaseSummary, ReviewDocument
from service.schema import ReviewState

#: Proposed boxes of one case; its export is made at once.
MOST_REVIEWS = 2000


Scope = frozenset[int] | None


def create_case(connection: Connection, key: Key, name: str) -> int:
    """Make a case; return its id.

    Raises
    ------
    ProblemError
        409, when there is one of this name.
    """
    case = schema.review_case.c
    if connection.execute(select(case.id).where(case.name == name)).first():
        raise ProblemError(409, f"There is a case {name!r} already")
    values = {"name": name, "created_at_us": now_us(), "created_by": key.caller}
    case_id: int = connection.execute(
        insert(schema.review_case).values(**values).returning(case.id)
    ).scalar_one()
    audit.append(connection, key.caller, "create case", {"case": name})
    return case_id


def read_cases(
    connection: Connection, scope: Scope, case_id: int | None = None
) -> list[CaseSummary]:
    """Return all cases, or one, newest first, with the counts of the scope's cameras."""
    case, review = schema.review_case.c, schema.review.c
    count = select(review.case_id, review.state, func.count().label("n"))
    cases = select(schema.review_case).order_by(case.id.desc())
    if scope is not None:
        count = count.where(review.camera_id.in_(scope))
    if case_id is not None:
        cases = cases.where(case.id == case_id)
        count = count.where(review.case_id == case_id)
    counts: dict[int, dict[ReviewState, int]] = {}
    for row in connection.execute(count.group_by(review.case_id, review.state)):
        counts.setdefault(row.case_id, {})[ReviewState(row.state)] = row.n
    return [
        CaseSummary(
            id=row.id,
            name=row.name,
            created_at=from_us(row.created_at_us),
            created_by=row.created_by,
            counts=counts.get(row.id, {}),
        )
        for row in connection.execute(cases)
    ]


def read_reviews(connection: Connection, case_id: int, scope: Scope) -> list[ReviewDocument]:
    """Return what is in a case, in the order in which it was proposed, without frames and boxes."""
    review = schema.review.c
    query = select(schema.review).where(review.case_id == case_id).order_by(review.id)
    if scope is not None:
        query = query.where(review.camera_id.in_(scope))
    return [_review(row) for row in connection.execute(query)]


def propose(
    connection: Connection,
    key: Key,
    case: CaseSummary,
    box_id: int,
    camera_id: int,
    score: float | None,
    note: str | None,
) -> None:
    """Put a box into a case, or one that was rejected up for discussion again.

    Raises
    ------
    ProblemError
        409, when it is in the case already, or the case is full.
    """
    row = _row(connection, case.id, box_id)
    values: dict[str, Any] = {
        "state": ReviewState.PROPOSED,
        "score": score,
        "proposed_by": key.id,
        "first_by": None,
        "second_by": None,
        "rejected_by": None,
        "note": note,
        "changed_at_us": now_us(),
    }
    if row is None:
        if sum(case.counts.values()) >= MOST_REVIEWS:
            raise ProblemError(409, f"A case holds {MOST_REVIEWS} results at most: begin another")
        own = {"case_id": case.id, "box_id": box_id, "camera_id": camera_id}
        connection.execute(insert(schema.review).values(**own, **values))
    elif row.state == ReviewState.REJECTED:
        connection.execute(
            update(schema.review).where(schema.review.c.id == row.id).values(**values)
        )
    else:
        raise ProblemError(409, f"Box {box_id} is in this case already: it is {row.state}")
    _record(connection, key, case, box_id, ReviewState.PROPOSED, note)


def confirm(
    connection: Connection,
    key: Key,
    case: CaseSummary,
    box_id: int,
    scope: Scope,
    note: str | None,
) -> None:
    """Agree that a result shows who is looked for; the second one who does has to be another.

    Raises
    ------
    ProblemError
        404, when it is not in the case; 409, when it cannot be confirmed, or not by this key.
    """
    row = _needed(connection, case.id, box_id, scope)
    if row.state == ReviewState.PROPOSED:
        values: dict[str, Any] = {"state": ReviewState.CONFIRMED_ONCE, "first_by": key.id}
    elif row.state == ReviewState.CONFIRMED_ONCE:
        if row.first_by == key.id:
            raise ProblemError(409, "This key has confirmed it before: a second one has to agree")
        values = {"state": ReviewState.CONFIRMED, "second_by": key.id}
    else:
        raise ProblemError(409, f"Box {box_id} is {row.state}: propose it (again) first")
    _change(connection, key, case, row, values, note)


def reject(
    connection: Connection,
    key: Key,
    case: CaseSummary,
    box_id: int,
    scope: Scope,
    note: str | None,
) -> None:
    """Say that a result does not show who is looked for; one key is enough, at any time.

    Raises
    ------
    ProblemError
        404, when it is not in the case; 409, when it is rejected already.
    """
    row = _needed(connection, case.id, box_id, scope)
    if row.state == ReviewState.REJECTED:
        raise ProblemError(409, f"Box {box_id} is rejected already")
    values = {"state": ReviewState.REJECTED, "rejected_by": key.id}
    _change(connection, key, case, row, values, note)


def delete_case(connection: Connection, key: Key, case: CaseSummary) -> None:
    """Delete a case with all that is in it; the audit's rows about it stay."""
    connection.execute(delete(schema.review).where(schema.review.c.case_id == case.id))
    connection.execute(delete(schema.review_case).where(schema.review_case.c.id == case.id))
    audit.append(connection, key.caller, "delete case", {"case": case.name})


def _change(
    connection: Connection,
    key: Key,
    case: CaseSummary,
    row: Row[Any],
    values: dict[str, Any],
    note: str | None,
) -> None:
    kept = row.note if note is None else note
    connection.execute(
        update(schema.review)
        .where(schema.review.c.id == row.id)
        .values(**values, note=kept, changed_at_us=now_us())
    )
    _record(connection, key, case, row.box_id, values["state"], note)


def _record(
    connection: Connection,
    key: Key,
    case: CaseSummary,
    box_id: int,
    state: ReviewState,
    note: str | None,
) -> None:
    detail = {"case": case.name, "box_id": box_id, "state": state, "note": note}
    audit.append(connection, key.caller, "review", detail)


def _needed(connection: Connection, case_id: int, box_id: int, scope: Scope) -> Row[Any]:
    """Return a result's row; what is outside the scope and what does not exist look the same."""
    row = _row(connection, case_id, box_id)
    if row is None or (scope is not None and row.camera_id not in scope):
        raise ProblemError(404, f"There is no box {box_id} in this case")
    return row


def _row(connection: Connection, case_id: int, box_id: int) -> Row[Any] | None:
    review = schema.review.c
    found: Row[Any] | None = connection.execute(
        select(schema.review).where(review.case_id == case_id, review.box_id == box_id)
    ).one_or_none()
    return found


def _review(row: Row[Any]) -> ReviewDocument:
    return ReviewDocument(
        box_id=row.box_id,
        score=row.score,
        state=ReviewState(row.state),
        proposed_by=row.proposed_by,
        first_by=row.first_by,
        second_by=row.second_by,
        rejected_by=row.rejected_by,
        note=row.note,
        changed_at=from_us(row.changed_at_us),
        result=None,
    )
