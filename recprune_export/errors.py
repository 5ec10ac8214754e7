"""Every error that a user can meet, in one tree.

    RecpruneError
    ├── ValidationFailed      1   a parity, latency or quality check failed, nothing was written; or a gate of `check`
    ├── Undecided             5   `check` could not tell in its time whether the artifact has become slower
    ├── UsageError            2   an option, a target directory or a combination that cannot work
    ├── InputFileError        3   a file that cannot be read or is not what it should be
    │   ├── DataError             ... rows: CSV, Parquet, NPZ
    │   ├── ModelFileError        ... checkpoint, state dict, .pt2
    │   └── BundleError           ... an artifact bundle
    └── ModelError            4   the model cannot be captured, pruned or exported
        ├── CaptureError
        ├── PruningError
        └── ExportError

The number is the exit code of the command line. A message is one sentence in the user's words:
what was wrong, where, and what to do about it.
"""


class RecpruneError(Exception):
    """Base of all errors that are the user's to solve."""

    exit_code = 1


class ValidationFailed(RecpruneError):
    """The artifact was made but did not pass its checks, or is worse than the one it is compared with."""

    exit_code = 1


class Undecided(RecpruneError):
    """Measurements leave open whether an artifact passes."""

    exit_code = 5


class UsageError(RecpruneError):
    """The request itself cannot work: an option out of range, a target that is in the way."""

    exit_code = 2


class InputFileError(RecpruneError):
    """A file is missing, damaged or of another kind than needed."""

    exit_code = 3


class DataError(InputFileError):
    """Rows that cannot be read, or lack what was asked of them."""


class ModelFileError(InputFileError):
    """A model file that is missing, damaged, unsafe to open or of an unknown kind."""


class BundleError(InputFileError):
    """A bundle whose files, checksums or manifest are not what they should be."""


class ModelError(RecpruneError):
    """The model was read, but cannot go through the pipeline."""

    exit_code = 4


class CaptureError(ModelError):
    """`torch.export` cannot capture the model."""


class PruningError(ModelError):
    """A plan does not fit the program, or the soundness check failed."""


class ExportError(ModelError):
    """The program cannot be expressed in ONNX."""
