"""The hierarchy of errors for the user.

    RecpruneError
    ├── ValidationFailed      1   a parity, latency or quality check failed and nothing was written, or the verdict is negative
    │   └── SlowerThanPyTorch     ... a file that takes longer than the same model in PyTorch
    ├── Undecided             5   the verdict is inconclusive with these rows or measurements (`--undecided pass|fail`)
    ├── UsageError            2   an invalid option, target directory or combination of options
    │   ├── TooFewBytes           ... a byte limit that no plan meets
    │   └── TooLittleTime         ... a limit of the predicted time that no plan within the bytes meets
    ├── InputFileError        3   a file that is missing, damaged or of the wrong kind
    │   ├── DataError             ... rows: CSV, Parquet, NPZ
    │   ├── ModelFileError        ... checkpoint, state dict, .pt2
    │   └── BundleError           ... an artifact bundle
    └── ModelError            4   the model cannot be captured, pruned or exported
        ├── CaptureError
        ├── PruningError
        └── ExportError

The number is the exit code of the command line; 0 means that the job succeeded and that the verdict, if any, is positive. A
message is one sentence in the user's terms that states the problem, its location and the remedy.
"""


class RecpruneError(Exception):
    """Base class of all errors that the user can resolve."""

    exit_code = 1


class ValidationFailed(RecpruneError):
    """An artifact that did not pass its checks, or a claim that fails: its interval lies beyond the limit."""

    exit_code = 1


class SlowerThanPyTorch(ValidationFailed):
    """A file that is slower than the same model in PyTorch, by the whole interval.

    `ratio` is the largest ratio of the times over all batch sizes, `excess` their difference at that batch size, in µs per row.
    """

    def __init__(self, message: str, ratio: float, excess: float) -> None:
        super().__init__(f"{message} Nothing was written.")
        self.finding, self.ratio, self.excess = message, ratio, excess


class Undecided(RecpruneError):
    """An inconclusive claim: its limit lies within the interval of the rows or measurements."""

    exit_code = 5


class UsageError(RecpruneError):
    """An invalid request: an option out of range, a target that already exists."""

    exit_code = 2


class TooFewBytes(UsageError):
    """A byte limit below the smallest file that any plan for the model gives."""


class TooLittleTime(UsageError):
    """A limit of the predicted time below that of the fastest plan within the byte limit."""


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
