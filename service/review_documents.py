"""What the routes of cases take and answer."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.documents import ResultDocument
from service.schema import ReviewState

Text = Annotated[str, Field(max_length=500)]


class NewCase(BaseModel):
    """A case to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, examples=["2026-117 lost child"])


class Proposal(BaseModel):
    """A result to put into a case."""

    model_config = ConfigDict(extra="forbid")

    box_id: int = Field(ge=1, lt=2**63, examples=[90412])
    audit_id: int | None = Field(
        None, ge=1, lt=2**63, description="The search that found it; its score is kept then."
    )
    note: Text | None = None


class Note(BaseModel):
    """What is said with a step of a review."""

    model_config = ConfigDict(extra="forbid")

    note: Text | None = None


class ReviewDocument(BaseModel):
    """A result within a case. Keys are told by their numbers; 0 is this machine without a key."""

    box_id: int
    state: ReviewState
    score: float | None = Field(description="Similarity in the search that found it.")
    proposed_by: int
    first_by: int | None
    second_by: int | None
    rejected_by: int | None
    note: str | None
    changed_at: datetime
    result: ResultDocument | None = Field(description="null when it was deleted since.")


class CaseSummary(BaseModel):
    """A case, without what is in it."""

    id: int
    name: str
    created_at: datetime
    created_by: str
    counts: dict[ReviewState, int] = Field(description="How many results are in each state.")


class CaseDocument(CaseSummary):
    """A case and what is in it."""

    reviews: list[ReviewDocument]
