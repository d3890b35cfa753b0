"""What keys may do; in a file of its own, so that `binet --help` loads no database."""

from enum import StrEnum


class Role(StrEnum):
    """What a key may do; each may do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
