"""The errors that a user can mend; the `binet` command prints them as one line."""


class BINetError(Exception):
    """What was asked for cannot be done; the message says why and what to do."""


class WeightsError(BINetError):
    """Weights are missing, unreadable, or of another network."""


class CheckpointError(BINetError):
    """A checkpoint is missing, damaged, of another network, or not of this format."""


class PictureError(BINetError, ValueError):
    """A file or object that cannot be used as a picture."""


class DeviceError(BINetError):
    """The device that was asked for is not there."""


class ExportError(BINetError):
    """An exported network does not give what the network itself gives."""
