"""Every error that deepcompress raises on purpose, as one tree.

    DeepCompressError
    ├── RecipeError       a setting is out of range or contradicts another (also a ValueError)
    ├── CheckpointError   a .pt or .safetensors file, or a tensor in it, cannot be used
    ├── NetworkError      a network is unknown, ambiguous, or does not fit the tensors
    ├── DataError         a data set is missing or malformed
    ├── TaskError         a loss or a metric of the user's own fails, or gives no number
    ├── PruneError        a pruning request cannot be carried out
    ├── DivergedError     the loss of training is no longer finite
    ├── FormatError       a .dc file is damaged, hostile, or from a newer version
    ├── UpdateError       an update cannot be made of these files, or does not fit the file that it is applied to
    ├── ResumeError       what an interrupted run has left cannot be gone on from
    └── OutputError       a file or folder cannot be written

The command line turns each into one line on stderr and exit code 1.
"""


class DeepCompressError(Exception):
    """Base of all errors that this package raises deliberately."""


class RecipeError(DeepCompressError, ValueError):
    """A setting of the pipeline is not allowed."""


class CheckpointError(DeepCompressError):
    """A checkpoint cannot be read, or holds tensors that cannot be compressed."""


class NetworkError(DeepCompressError):
    """A network is not known, or does not fit the tensors at hand."""


class DataError(DeepCompressError):
    """A data set is not there, or is not what it should be."""


class TaskError(DeepCompressError):
    """A loss or a metric fails, or gives nothing that can be used."""


class PruneError(DeepCompressError):
    """Pruning as asked for would destroy the network."""


class DivergedError(DeepCompressError):
    """Training has come to a loss that is not finite."""


class FormatError(DeepCompressError):
    """A .dc file is not valid: damaged, hostile, or written by a newer version."""


class UpdateError(DeepCompressError):
    """An update cannot be made of two files, or is not for the file that it is applied to."""


class ResumeError(DeepCompressError):
    """The state of an interrupted run is damaged, or of another run."""


class OutputError(DeepCompressError):
    """A file could not be written; whatever stood there before is untouched."""


def first_line(error: BaseException, kind: bool = False) -> str:
    """What an error says first, or else what it is, for a message of one line; with `kind`, both."""
    name = type(error).__name__
    lines = filter(None, (line.strip() for line in str(error).splitlines()))
    line = next(lines, "")
    if kind or isinstance(error, KeyError):  # which says the key alone
        return f"{name}: {line}".removesuffix(": ")
    return line or name
