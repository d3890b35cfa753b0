"""Errors of the gallery that a user can mend; the `binet` command prints them as one line."""

from model.errors import BINetError


class SourceError(BINetError):
    """A source is missing, cannot be read, or has no frames."""


class OutputError(BINetError):
    """A result cannot be written where it was asked for."""
