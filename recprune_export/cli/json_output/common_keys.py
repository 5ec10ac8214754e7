"""Keys that several commands print; each has one meaning, whichever command prints it."""

from typing import Annotated, Literal

from pydantic import Field, with_config
from typing_extensions import TypedDict

from recprune_export.bundle.manifest.manifest_sections import CLOSED, AtLeastOne, Count, Name

Bundle = Annotated[Name, Field(description="the bundle that was read, as it was given")]
Output = Annotated[Name, Field(description="path of the file or folder that was written")]
Rows = Annotated[Count, Field(description="number of rows")]
Bytes = Annotated[Count, Field(description="size in bytes")]
Seconds = Annotated[float, Field(ge=0, description="duration of the work")]
Threads = Annotated[AtLeastOne, Field(description="threads of ONNX Runtime")]
ShardOfWork = Annotated[str | None, Field(description="which part of the work, as i/n; null without --shard")]
Notes = Annotated[list[str], Field(description="remarks for the user")]
GroupLabel = Annotated[str, Field(description="the fields or layers of the group")]
Number = float | None  # null stands for a number that is not finite
Verdict = Literal["pass", "fail", "undecided", "skipped"]
OverallVerdict = Annotated[Verdict, Field(description="verdict on all of them together; `undecided`: cannot be told")]
Metrics = dict[str, Number]


@with_config(CLOSED)
class NumberInterval(TypedDict):
    """An estimate with its interval; null for a number that is not finite."""

    estimate: Number
    low: Number
    high: Number


@with_config(CLOSED)
class ErrorEntry(TypedDict):
    """Why a command ended; the message is on standard error as well."""

    type: Annotated[Name, Field(description="class of the error, such as BundleError")]
    message: Annotated[str, Field(description="what was wrong, where, and what to do")]
    exit_code: Annotated[AtLeastOne, Field(description="exit code of the process")]


@with_config(CLOSED)
class ErrorOutput(TypedDict):
    """Printed by every command in the place of its result where it ends with an error."""

    error: ErrorEntry
