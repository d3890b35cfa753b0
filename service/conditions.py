"""What a search may find and how it is answered: the fields that all kinds of queries share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, Form
from pydantic import Field

from indexer.filters import Filter, TimeOfDay
from service.filtering import named_cameras, require_zones
from service.keys import Key
from service.problems import ProblemError
from service.state import Service

#: Longest text of a reason or case.
_TEXT = 500
_DAY = re.compile(r"(\d\d:\d\d)-(\d\d:\d\d)(?:([+-])(\d\d):(\d\d))?")

#: What SQL can hold.
StoredId = Annotated[int, Field(ge=1, lt=2**63)]
GroupBy = Literal["box", "frame", "appearance"]


@dataclass(frozen=True)
class Conditions:
    """The fields of a form, in its words."""

    k: Annotated[int, Form(ge=1, description="How many results.")] = 20
    camera: Annotated[Sequence[str], Form(description="Only these cameras.")] = ()
    source: Annotated[Sequence[StoredId], Form(description="Only these sources, by id.")] = ()
    after: Annotated[datetime | None, Form(description="Captured then or later.")] = None
    before: Annotated[datetime | None, Form(description="Captured earlier.")] = None
    time_of_day: Annotated[
        str | None,
        Form(
            description="Only this part of every day, in UTC or with an offset; it may wrap "
            "midnight.",
            examples=["22:00-06:00+02:00"],
        ),
    ] = None
    min_detection: Annotated[
        float | None, Form(ge=0, le=1, description="The detector's score, at least.")
    ] = None
    min_score: Annotated[float | None, Form(ge=-1, le=1, description="Similarity, at least.")] = (
        None
    )
    combine: Annotated[
        Literal["best", "mean"], Form(description="How several positives become one score.")
    ] = "best"
    negative_weight: Annotated[
        float, Form(ge=0, le=10, description="How much likeness to the negatives counts.")
    ] = 1.0
    group_by: Annotated[GroupBy, Form(description="How results are put together.")] = "box"
    reason: Annotated[str, Form(max_length=_TEXT, description="Why this is asked.")] = ""
    case: Annotated[str, Form(max_length=_TEXT, description="What it belongs to.")] = ""

    def check(self, service: Service) -> None:
        """Refuse what this service does not answer.

        Raises
        ------
        ProblemError
            422, or 503 as long as the service is not ready.
        """
        if service.settings.require_reason and not self.reason.strip():
            raise ProblemError(
                422, "This service asks for a reason with every search: give `reason`"
            )
        if self.k > service.settings.most_results:
            raise ProblemError(422, f"k may be {service.settings.most_results} at most")
        if (problem := service.problem()) is not None:
            raise ProblemError(503, f"The service is not ready: {problem}", {"Retry-After": "5"})

    def filter(self, service: Service, key: Key) -> Filter:
        """Return what may be found, the key's cameras only."""
        require_zones(self.after, self.before)
        return Filter(
            cameras=named_cameras(service, key, self.camera).values() if self.camera else None,
            sources=self.source or None,
            after=self.after,
            before=self.before,
            time_of_day=None if self.time_of_day is None else parse_time_of_day(self.time_of_day),
            min_score=self.min_detection,
            scope_cameras=service.scope(key),
        )

    def detail(self, key: Key) -> dict[str, Any]:
        """Return what the audit holds of them."""
        return {
            "reason": self.reason,
            "case": self.case,
            "filter": {
                "cameras": sorted(self.camera),
                "sources": sorted(self.source),
                "scope": None if key.cameras is None else list(key.cameras),
                "after": None if self.after is None else self.after.isoformat(),
                "before": None if self.before is None else self.before.isoformat(),
                "time_of_day": self.time_of_day,
                "min_detection": self.min_detection,
                "min_score": self.min_score,
            },
            "k": self.k,
            "combine": self.combine,
            "negative_weight": self.negative_weight,
        }


Given = Annotated[Conditions, Depends()]


def parse_time_of_day(text: str) -> TimeOfDay:
    """Read a part of the day, such as `22:00-06:00+02:00`.

    Raises
    ------
    ProblemError
        422, when it is not of this form.
    """
    found = _DAY.fullmatch(text)
    if found is None:
        raise ProblemError(
            422, "time_of_day is HH:MM-HH:MM, with +HH:MM or -HH:MM behind it or without"
        )
    begin, end, sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        return TimeOfDay(
            time.fromisoformat(begin), time.fromisoformat(end), -offset if sign == "-" else offset
        )
    except ValueError as error:
        raise ProblemError(422, f"time_of_day: {error}") from error
