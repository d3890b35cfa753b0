"""Errors of the benchmark that its user can mend."""

from model.errors import BINetError


class BenchmarkError(BINetError):
    """Files or options of a benchmark do not go together."""
