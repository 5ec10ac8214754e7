"""A bundle says what becomes of ids and numbers out of range, its model does so, and `verify` finds one that does not."""

from pathlib import Path

import numpy as np
import pytest

from recprune_export.bundle import read_manifest
from recprune_export.bundle._verify import OpenSession, check_input_rules
from recprune_export.errors import ValidationFailed
from recprune_export.onnx import make_session, run
from recprune_export.program import Signature
from recprune_export.program.requests.input_rules import apply_input_rules, with_bad_ids
from tests.bundle.complete import SIGNATURE, write


def test_the_model_of_a_bundle_follows_its_signature(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    signature = Signature.from_dict(manifest.signature)
    rules = {i.name: i.bad_ids for i in signature.inputs if i.ids}
    assert rules.pop("tags") == (1,)
    assert set(rules.values()) == {(0,)}
    (numeric,) = (i for i in signature.inputs if i.dtype == "float32")
    assert numeric.number_limit is not None
    with np.load(bundle / "samples/inputs.npz") as samples:
        valid = dict(samples)
    bad = {name: values.copy() for name, values in valid.items()}
    for spec in signature.inputs:
        if spec.ids and spec.ids[0] is not None:
            bad[spec.name][:3] = np.array([-1, spec.ids[0][1] + 1, -(2**63)]).reshape(
                3, *[1] * (valid[spec.name].ndim - 1)
            )
    bad["numeric"][3], bad["numeric"][4] = np.inf, -1e30
    session = make_session(bundle / "model.onnx", 1)
    answer, expected = run(session, bad), run(session, apply_input_rules(bad, signature))
    for name, values in answer.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
        np.testing.assert_allclose(values[5:], run(session, valid)[name][5:], rtol=1e-5)
    assert "samples/out-of-range-inputs.npz" in manifest.files
    check_input_rules(bundle, manifest, OpenSession())
    assert "An id out of range is replaced by an unknown value" in (bundle / "README.md").read_text()


def test_a_model_without_guards_is_found(tmp_path: Path) -> None:
    bundle = write(tmp_path / "ctr")
    manifest = read_manifest(bundle)
    check_input_rules(bundle, manifest, OpenSession())  # an older bundle promises nothing
    strict = with_bad_ids(SIGNATURE, "error")
    with pytest.raises(ValidationFailed, match="accepts the id -1 in 'user', which it should refuse"):
        check_input_rules(bundle, manifest.model_copy(update={"signature": strict.to_dict()}), OpenSession())


def test_another_answer_out_of_range_is_found(tmp_path: Path) -> None:
    bundle = write(tmp_path / "ctr")
    manifest = read_manifest(bundle)
    with np.load(bundle / "samples/inputs.npz") as samples:
        request = {name: values.copy() for name, values in samples.items()}
    request["user"][0] = -1  # the last row of the table, where the unknown one is promised
    np.savez(bundle / "samples/out-of-range-inputs.npz", **request)
    (bundle / "samples/out-of-range-outputs.npz").write_bytes((bundle / "samples/outputs.npz").read_bytes())
    files = {**manifest.files, "samples/out-of-range-inputs.npz": next(iter(manifest.files.values()))}
    with pytest.raises(ValidationFailed, match=r"out-of-range-inputs\.npz differ: Output 'y' of model\.onnx differs"):
        check_input_rules(bundle, manifest.model_copy(update={"files": files}), OpenSession())
