"""The hierarchy of errors for the user.

    RecpruneError
    ├── ValidationFailed      1   a parity, latency or quality check failed and nothing was written, or a gate of `check` failed
    ├── Undecided             5   `check` could not decide within its time whether the artifact has become slower
    ├── UsageError            2   an invalid option, target directory or combination of options
    ├── InputFileError        3   a file that is missing, damaged or of the wrong kind
    │   ├── DataError             ... rows: CSV, Parquet, NPZ
    │   ├── ModelFileError        ... checkpoint, state dict, .pt2
    │   └── BundleError           ... an artifact bundle
    └── ModelError            4   the model cannot be captured, pruned or exported
        ├── CaptureError
        ├── PruningError
        └── ExportError

The number is the exit code of the command line. A message is one sentence in the user's terms that states
the problem, its location and the remedy.
"""


class RecpruneError(Exception):
    """Base class of all errors that the user can resolve."""

    exit_code = 1


class ValidationFailed(RecpruneError):
    """An artifact that did not pass its checks, or is worse than the one it is compared with."""

    exit_code = 1


class Undecided(RecpruneError):
    """Measurements that do not decide whether an artifact passes."""

    exit_code = 5


class UsageError(RecpruneError):
    """An invalid request: an option out of range, a target that already exists."""

    exit_code = 2


class InputFileError(RecpruneError):
    """A file that is missing, damaged or of the wrong kind."""

    exit_code = 3


class DataError(InputFileError):
    """Rows that cannot be read, or lack a required column or value."""


class ModelFileError(InputFileError):
    """A model file that is missing, damaged, unsafe to open or of an unknown kind."""


class BundleError(InputFileError):
    """A bundle with invalid files, checksums or manifest."""


class ModelError(RecpruneError):
    """A model that was read, but that the pipeline does not support."""

    exit_code = 4


class CaptureError(ModelError):
    """A model that `torch.export` cannot capture."""


class PruningError(ModelError):
    """A plan that does not fit the program, or a failed soundness check."""


class ExportError(ModelError):
    """A program that cannot be expressed in ONNX."""
