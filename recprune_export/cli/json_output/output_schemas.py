"""JSON schemas of the outputs of each command; `python -m recprune_export.cli.json_output.output_schemas FOLDER` writes them."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from recprune_export.bundle.manifest.manifest_schema import DIALECT, Untitled
from recprune_export.cli.json_output import bundle_outputs, common_keys, job_outputs

# The outputs that each command may print.
OUTPUTS: Mapping[str, tuple[type, ...]] = {
    "check": (bundle_outputs.CheckOutput, bundle_outputs.CalibrationOutput),
    "compress": (job_outputs.CompressOutput, job_outputs.DryRunOutput),
    "doctor": (bundle_outputs.DoctorOutput,),
    "generate": (bundle_outputs.GenerateOutput,),
    "inspect": (bundle_outputs.InspectModelOutput, bundle_outputs.InspectArtifactOutput),
    "pack": (bundle_outputs.PackOutput,),
    "predict": (bundle_outputs.PredictOutput, bundle_outputs.PredictFolderOutput),
    "profile": (bundle_outputs.ProfileOutput,),
    "reapply": (job_outputs.ReapplyOutput,),
    "refresh": (job_outputs.RefreshOutput,),
    "report": (bundle_outputs.ReportOutput, bundle_outputs.ReportOfTwoOutput),
    "sign": (bundle_outputs.SignOutput,),
    "split": (bundle_outputs.SplitOutput,),
    "sweep": (job_outputs.SweepOutput, job_outputs.SweepShardOutput),
    "train": (job_outputs.TrainOutput,),
    "verify": (bundle_outputs.VerifyOutput,),
}


def make_output_schema(command: str) -> dict[str, Any]:
    """Return the JSON schema of standard output of a command under `--json`, an error included."""
    union: Any = common_keys.ErrorOutput
    for output in reversed(OUTPUTS[command]):
        union = output | union
    schema = TypeAdapter(union).json_schema(mode="serialization", schema_generator=Untitled)
    return {"$schema": DIALECT, "title": f"recprune-export {command} --json", **schema}


def format_output_schema(command: str) -> str:
    """Return the text of the schema file of a command."""
    return json.dumps(make_output_schema(command), indent=2) + "\n"


if __name__ == "__main__":
    for command in OUTPUTS:
        Path(sys.argv[1], f"{command}.schema.json").write_text(format_output_schema(command), encoding="utf-8")
