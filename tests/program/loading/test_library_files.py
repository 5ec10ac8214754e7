"""Files that the libraries themselves write, where they are installed; `weight_files` has the same layouts by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.api import load_model
from recprune_export.errors import CaptureError
from recprune_export.program import ModelKind, load_program
from tests.program.loading.weight_files import FACTORY, REQUEST, answer, make, write_request

EXAMPLE = tuple(torch.tensor(array) for array in REQUEST.values())
pytestmark = pytest.mark.filterwarnings("ignore")


def check_answers(path: Path, **options: Any) -> None:
    loaded = load_program(path, **options)
    request = dict(zip(REQUEST, EXAMPLE, strict=True))
    torch.testing.assert_close(next(iter(loaded.program(request).values())), answer(request))


def test_lightning_checkpoints_and_modules(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Ranker(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.ranker = make()

        def forward(self, user: torch.Tensor, x: torch.Tensor) -> Any:
            return torch.sigmoid(self.ranker(user, x))

        def training_step(self, batch: Any, index: int) -> Any:
            return self.ranker(*batch).square().mean() * 0.0

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.0)

    class PassesOn(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = make()

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.network(*args, **kwargs)

    class Silent(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = make()

    trainer = lightning.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    module = Ranker()
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*EXAMPLE), 3))
    trainer.save_checkpoint(tmp_path / "ranker.ckpt")
    check_answers(tmp_path / "ranker.ckpt", factory=FACTORY, inputs=write_request(tmp_path))
    for wrapped in (module, PassesOn()):
        assert [spec.name for spec in load_model(wrapped, EXAMPLE, {}).program.signature.inputs] == list(REQUEST)
    with pytest.raises(
        CaptureError, match=r"Silent defines no forward: give the submodule that processes requests .*'network'"
    ):
        load_model(Silent(), EXAMPLE, {})
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    prepared = fabric.setup(make())
    assert [spec.name for spec in load_model(prepared, EXAMPLE, {}).program.signature.inputs] == list(REQUEST)


def test_a_checkpoint_of_recbole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole 1.2 uses names that NumPy 2 does not have, so the configuration is made without its constructor."""
    for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        monkeypatch.setattr(np, name, value, raising=False)
    configurator = pytest.importorskip("recbole.config.configurator")
    config = configurator.Config.__new__(configurator.Config)
    config.__dict__ = {"parameters": {"Training": ["epochs"]}, "final_config_dict": {"device": torch.device("cpu")}}
    content = {"config": config, "epoch": 0, "best_valid_score": np.float64(0.1), "state_dict": make().state_dict(),
               "other_parameter": None, "optimizer": {}}  # fmt: skip
    torch.save(content, tmp_path / "BPR.pth", pickle_protocol=4)
    check_answers(tmp_path / "BPR.pth", factory=FACTORY, inputs=write_request(tmp_path))


def test_folders_of_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow.pytorch")
    models = pytest.importorskip("mlflow.models")
    request = write_request(tmp_path)
    mlflow.save_state_dict(make().state_dict(), tmp_path / "weights")
    check_answers(tmp_path / "weights", factory=FACTORY, inputs=request)
    mlflow.save_model(make(), tmp_path / "pickled", serialization_format="pickle", pip_requirements=["torch"])
    check_answers(tmp_path / "pickled", factory=FACTORY, inputs=request)
    check_answers(tmp_path / "pickled", unsafe_unpickle=True, inputs=request)
    network, rows = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)).eval(), np.ones((4, 5), dtype=np.float32)
    signature = models.infer_signature(rows, network(torch.tensor(rows)).detach().numpy())
    mlflow.save_model(
        network, tmp_path / "program", serialization_format="pt2", input_example=rows, signature=signature, pip_requirements=["torch"]
    )  # fmt: skip
    assert load_program(tmp_path / "program").kind is ModelKind.PROGRAM
