"""`inspect` on model files: what was chosen in them is said, and a folder with a model is no bundle."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from recprune_export.cli import main
from tests.program.loading.weight_files import FACTORY, make, write_chunks, write_request


def inspect(path: Path, *options: str) -> Result:
    request = write_request(path.parent)
    return CliRunner().invoke(main, ["inspect", str(path), "--factory", FACTORY, "--inputs", str(request), *options])


def test_the_key_chooses_and_the_choice_is_said(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in make().state_dict().items()}
    torch.save({"model": state, "ema": {name: tensor + 1 for name, tensor in state.items()}}, tmp_path / "m.pt")
    refused = inspect(tmp_path / "m.pt")
    assert refused.exit_code == 2
    assert "--key model or --key ema" in str(refused.exception or refused.output) + refused.output
    chosen = inspect(tmp_path / "m.pt", "--key", "ema")
    assert chosen.exit_code == 0
    assert chosen.stderr.count("'module.'") == 1
    in_json = inspect(tmp_path / "m.pt", "--key", "ema", "--json")
    assert not in_json.stderr
    assert any("'module.'" in note for note in json.loads(in_json.stdout)["notes"])


@pytest.mark.filterwarnings("ignore")
def test_a_folder_with_a_model_is_opened(tmp_path: Path) -> None:
    write_chunks(tmp_path / "checkpoint")
    result = inspect(tmp_path / "checkpoint", "--json")
    assert result.exit_code == 0
    assert '"a torch.distributed.checkpoint folder"' in result.stdout
