"""Errors of the gallery that a user can mend; the `binet` command prints them as one line."""

from model.errors import BINetError


class SourceError(BINetError):
    """A source is missing, cannot be read, or has no frames."""


class OutputError(BINetError):
    """A result cannot be written where it was asked for."""


class GalleryError(BINetError):
    """A gallery cannot be opened, read or written; the message says what to do."""


class IndexEngineError(BINetError):
    """The vector index's library is missing, installed twice, or has no such device."""


class IndexOutageError(IndexEngineError):
    """The vector index is a server that cannot be reached now; it follows SQL once it is back."""


class EmbeddingError(BINetError, ValueError):
    """An embedding cannot be searched with or stored: wrong size, zero, or not finite."""


class DuplicateIdError(BINetError, ValueError):
    """An id is in the vector index already, or does not follow the ids that are."""


class UnknownBoxError(BINetError, LookupError):
    """There is no such box within what may be searched."""


class EncoderError(BINetError):
    """The gallery has no active encoder, or the embedding is another encoder's."""


class JobCancelled(BINetError):  # noqa: N818 - nothing is wrong
    """A job was cancelled; what it had written stays."""


class MediaError(BINetError):
    """A picture cannot be had (its source is gone, or has changed), or cannot be kept."""
