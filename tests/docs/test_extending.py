"""The code on the pages of docs/extending runs, also on models of the catalogue."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import recprune_export
from recprune_export.channels import analysis
from recprune_export.derived import SourceModel
from recprune_export.gate import open_artifact
from recprune_export.onnx import count, export_onnx, replace_uses, rewrite
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.program import OPERATORS, Facet, Program, sample_request
from recprune_export.program.capture import capture
from recprune_export.pruning import ScoreInputs, rank_by
from recprune_export.pruning.rotation import rotation_rules
from recprune_export.validation import Tolerances, check_parity
from tests.recommenders.test_recommenders import make, spec_of

PAGES = sorted((Path(__file__).parents[2] / "docs" / "extending").glob("*.md"))
PACKAGE = Path(recprune_export.__file__).parent
CATALOGUE = ("dlrm", "deepfm", "sasrec")  # deepfm has batch-norms
Names = Mapping[str, Any]


@pytest.fixture(autouse=True)
def restore_rules_after_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    assert analysis.analyze, rotation_rules.rule_out_all  # their import has registered all rules
    monkeypatch.setattr(OPERATORS, "_rules", {facet: dict(OPERATORS.rules(facet)) for facet in Facet})


def names_after(page: Path) -> Names:
    """Run the code of a page and return what it defines."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    assert "assert " in blocks[-1]
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "README.md"], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page: Path) -> None:
    names_after(page)


def captured(name: str) -> Program:
    return capture(make(name), (spec_of(name).example_request(),))


def use_operator(names: Names, name: str, folder: Path) -> None:
    """The operator of the page after every lookup."""
    module = make(name)
    for table in (m for m in module.modules() if isinstance(m, nn.Embedding)):
        table.register_forward_hook(lambda module, args, looked_up: torch.rad2deg(looked_up) / 60.0)
    rotated = names["check_operator"](module, spec_of(name).example_request())
    # The tables of DLRM reach a ReLU, those of SASRec a LayerNorm: only a projection makes them rotatable.
    assert bool(rotated) == (name == "deepfm")


def use_custom_operator(names: Names, name: str, folder: Path) -> None:
    """The operators of the page, behind the model, go to ONNX and answer as in PyTorch."""
    module = make(name)
    for table in (m for m in module.modules() if isinstance(m, nn.Embedding)):
        table.register_forward_hook(lambda module, args, looked_up: torch.ops.my.scaled_tanh(looked_up, 0.5))
    request = spec_of(name).example_request()
    program = capture(module, (request,))
    assert {group.name for group in program.analysis.groups} == {g.name for g in captured(name).analysis.groups}
    drawn = {key: np.asarray(values) for key, values in sample_request(program.signature, 5, 0).items()}
    answers = run(make_session(export_onnx(program, folder / "model.onnx").path), drawn)
    for key, expected in program({key: torch.from_numpy(values) for key, values in drawn.items()}).items():
        np.testing.assert_allclose(answers[key], expected.detach().numpy(), rtol=1e-3, atol=1e-4)


def use_score(names: Names, name: str, folder: Path) -> None:
    program = captured(name)
    rankings = rank_by(names["spread"](ScoreInputs(program, [], loss=None, distance=None, probe=None)))  # type: ignore[arg-type]
    assert rankings.keys() == {group.name for group in program.analysis.groups}
    assert all(len(rankings[group.name].order) == group.width for group in program.analysis.groups)
    assert all(ranking.losses[0] > 0.0 for ranking in rankings.values())


def use_rewrite(names: Names, name: str, folder: Path) -> None:
    """A double negation in the exported graph is removed."""
    program = captured(name)
    model = ir.load(export_onnx(program, folder / "model.onnx", rewrites=()).path)
    value = next(node for node in model.graph if node.op_type == "Gather").outputs[0]
    once = ir.node("Neg", [value])
    twice = ir.node("Neg", once.outputs)
    replace_uses(value, twice.outputs[0])
    once.replace_input_with(0, value)
    model.graph.insert_after(value.producer(), [once, twice])  # type: ignore[arg-type]
    request = sample_request(program.signature, 3, 0)
    probe = [np.asarray(request[v.name]) for v in model.graph.inputs]  # type: ignore[index]
    after, (report,) = rewrite(model, [names["drop_double_negation"]], [probe], batches=(1, 64))
    assert report.accepted
    assert not [node for node in after.graph if node.op_type == "Neg"]


def use_gate(names: Names, name: str, folder: Path) -> None:
    path = export_onnx(captured(name), folder / "model.onnx", rewrites=()).path
    assert names["lookups"].value(open_artifact(path)) == count(path).tables.parameters > 0


def use_derived_model(names: Names, name: str, folder: Path) -> None:
    program = captured(name)
    file = export_onnx(program, folder / "model.onnx", rewrites=())
    session = make_session(file.path, 1)
    rows = {name: np.asarray(values) for name, values in sample_request(program.signature, 16, 0).items()}
    source = SourceModel(file, lambda request: run(session, request), rows, Tolerances())
    derived = names["derive_probability"](source, folder)
    derived_session = make_session(derived.file.path, 1)
    assert check_parity(
        derived.expected, lambda request: run(derived_session, request), {"rows": rows}, derived.tolerances
    ).passed


USES: Mapping[str, Callable[[Names, str, Path], None]] = {
    "custom-operator": use_custom_operator,
    "operator-rule": use_operator,
    "score": use_score,
    "graph-rewrite": use_rewrite,
    "gate": use_gate,
    "derived-model": use_derived_model,
}


def test_every_page_has_a_use_except_that_of_recommenders() -> None:
    assert USES.keys() == {page.stem for page in PAGES} - {"README", "recommender"}


@pytest.mark.parametrize(
    "name", [CATALOGUE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in CATALOGUE[1:])]
)
@pytest.mark.parametrize("page", [p for p in PAGES if p.stem in USES], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs_on_models_of_the_catalogue(page: Path, name: str, tmp_path: Path) -> None:
    USES[page.stem](names_after(page), name, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:recprune_export/)?\w+(?:/\w+)*(?:\.py|/))`", text))
    assert paths
    known = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py")}
    for path in {path for path in paths if not path.startswith("tests/")}:
        inside = path.removeprefix("recprune_export/")
        if path.endswith("/"):
            assert (PACKAGE / inside).is_dir(), path
        else:
            assert any(name == inside or name.endswith(f"/{inside}") for name in known), path
    for path in {path for path in paths if path.startswith("tests/")}:
        assert (PACKAGE.parent / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (page.parent / link).exists(), link
