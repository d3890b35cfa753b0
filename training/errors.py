"""The errors of training that a user can mend."""

from model.errors import BINetError


class DatasetError(BINetError):
    """A dataset's folder is missing, incomplete, or not of the format that was asked for."""


class RecipeError(BINetError):
    """A recipe does not exist or a field of it is wrong."""


class RunError(BINetError):
    """A run cannot be started or resumed, or its loss is not finite any more."""
