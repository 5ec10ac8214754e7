import json

import pytest

from recprune_export.bundle import Manifest
from recprune_export.bundle.manifest import values_checksum
from recprune_export.errors import BundleError
from tests.bundle.samples import manifest

FORBIDDEN: list[tuple[dict[str, object], str]] = [
    ({"format_version": 99}, "format version 99"),
    ({"format_version": 0}, "format version 0"),
    ({"format_version": True}, "format version True"),
    ({"opset": "twenty"}, r"\$\.opset"),
    ({"opset": True}, r"\$\.opset"),
    ({"created": "yesterday"}, r"\$\.created"),
    ({"tolerances": {"absolute": -1, "relative": 0}}, r"\$\.tolerances"),
    ({"session": {"options": {"threads": 0}}}, r"\$\.session"),
    ({"session": {"speed": 1}}, r"\$\.session"),
    ({"files": {}}, r"\$\.files"),
    ({"change": {"metric": "auc"}}, r"\$\.change"),
    ({"change": {"better": True}}, r"\$\.change"),
    ({"notes": [1]}, r"\$\.notes"),
    ({"latency": {"milliseconds": {"1": {"dense": {"distribution": [-1.0]}}}}}, r"\$\.latency"),
    ({"surprise": 1}, "schema"),
    ({"signature": {"inputs": [], "outputs": []}}, r"\$\.signature"),
    ({"license": 7}, r"\$\.license"),
    ({"provenance": {"command": []}}, r"\$\.provenance"),
    ({"encoding": {"file": "encoding.json"}}, r"\$\.encoding"),
]


def values() -> dict[str, object]:
    entry = {"bytes": 1, "sha256": "0" * 64}
    names = ("model.onnx", "samples/inputs.npz", "samples/outputs.npz")
    made = manifest().to_dict() | {"files": dict.fromkeys(names, entry)}
    return made | {"checksum": values_checksum(made)}


def test_a_manifest_survives_json() -> None:
    read = Manifest.from_dict(json.loads(json.dumps(values())))
    assert read.to_dict() == values()


@pytest.mark.parametrize(("change", "said"), FORBIDDEN)
def test_what_the_schema_forbids_is_refused_by_its_place(change: dict[str, object], said: str) -> None:
    made = values() | change
    with pytest.raises(BundleError, match=said):
        Manifest.from_dict(made | {"checksum": values_checksum(made)})


def test_tuples_are_the_lists_that_json_makes_of_them() -> None:
    signature = manifest().signature
    made = manifest(signature={**signature, "inputs": tuple(signature["inputs"])}, plan={"groups": ((1, 2),)})
    assert made == manifest(plan={"groups": [[1, 2]]})
    assert made.checksum == values_checksum(json.loads(made.to_json()))


def version_1() -> dict[str, object]:
    made = {k: v for k, v in values().items() if k not in ("encoding", "license", "provenance")} | {"format_version": 1}
    return made | {"checksum": values_checksum(made)}


def test_a_manifest_of_version_1_is_migrated() -> None:
    read = Manifest.from_dict(version_1())
    assert read == Manifest.from_dict(values())
    assert read.provenance is None


def test_a_manifest_of_version_1_that_was_edited_is_found() -> None:
    with pytest.raises(BundleError, match="changed after the bundle was written"):
        Manifest.from_dict(version_1() | {"name": "other"})
    with pytest.raises(BundleError, match=r"\$\.opset"):
        Manifest.from_dict(version_1() | {"opset": None})
