"""A `.pt2` from anybody: read where it is inert, refused where code of its own could run."""

import contextlib
import json
import zipfile
from pathlib import Path

import pytest
import torch

from recprune_export.errors import ModelFileError
from recprune_export.program import load_archive, load_program
from recprune_export.program.loading.saved_graphs.archive import check_archive
from tests.program.hostile import GRAPH, attacks, rewrite, write_program

NAMES = list(attacks(Path("unused")))


@pytest.fixture(scope="module")
def well_meaning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_program(tmp_path_factory.mktemp("program") / "model.pt2")


@pytest.fixture
def program_file(well_meaning: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model.pt2"
    copy.write_bytes(well_meaning.read_bytes())
    return copy


def test_a_well_meaning_program_is_read_and_answers_as_before(program_file: Path) -> None:
    exported = torch.export.load(program_file)
    request = {"user id": torch.tensor([3, 1, 4, 1, 5])}
    assert GRAPH in check_archive(program_file)
    (answer,) = load_archive(program_file)({"user id": request["user id"]}).values()
    torch.testing.assert_close(answer, exported.module()(request)["click"], rtol=0, atol=1e-7)


def test_rewriting_the_records_alone_is_not_what_is_refused(program_file: Path) -> None:
    rewrite(program_file, lambda records: None)
    assert GRAPH in check_archive(program_file)


@pytest.mark.parametrize("attack", NAMES)
def test_no_code_of_the_file_runs(attack: str, program_file: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    rewrite(program_file, attacks(marker)[attack])
    with pytest.raises(ModelFileError, match="refused"):
        load_program(program_file)
    assert not marker.exists()


@pytest.mark.parametrize("attack", ["pickled weight", "opaque constant", "sample inputs", "symbolic size"])
def test_the_attacks_are_real(attack: str, program_file: Path, tmp_path: Path) -> None:
    """Without the check the marker appears: the test above would notice if nothing were checked."""
    marker = tmp_path / "marker"
    rewrite(program_file, attacks(marker)[attack])
    with contextlib.suppress(Exception):  # what comes after the attack may well fail
        torch.export.load(program_file)
    assert marker.exists()


def test_a_file_with_two_tables_of_contents_is_refused(program_file: Path) -> None:
    with zipfile.ZipFile(program_file, "a") as archive:
        archive.writestr("version", "8.0")
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(ModelFileError, match=r"refused|damaged"):
        check_archive(program_file)


def test_a_damaged_program_gets_a_sentence(program_file: Path) -> None:
    rewrite(program_file, lambda records: records.update({GRAPH: records[GRAPH][:-100]}))
    with pytest.raises(ModelFileError, match=r"damaged .pt2 program"):
        check_archive(program_file)


def test_deep_nesting_is_refused(program_file: Path) -> None:
    deep = json.dumps({"graph_module": {}}).replace("{}", "[" * 900 + "]" * 900)
    rewrite(program_file, lambda records: records.update({GRAPH: deep.encode()}))
    with pytest.raises(ModelFileError):
        load_program(program_file)
