"""Hugging Face folders: their own classes, no code of the folder, no memory for what is declared and not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recprune_export.errors import ModelFileError, UsageError
from recprune_export.program import ModelKind, load_program
from tests.program.loading.weight_files import FACTORY, write_request, write_sharded

SMALL: dict[str, dict[str, Any]] = {
    "BertModel": {"model_type": "bert", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "intermediate_size": 32, "max_position_embeddings": 32},
    "GPT2LMHeadModel": {"model_type": "gpt2", "vocab_size": 100, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "LlamaForCausalLM": {"model_type": "llama", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32},
    "T5EncoderModel": {"model_type": "t5", "vocab_size": 100, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
}  # fmt: skip


def write_folder(folder: Path, name: str, **options: Any) -> Any:
    """Save a small module as its library does; return it."""
    transformers = pytest.importorskip("transformers")
    values = dict(SMALL[name])
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(0)
    module = getattr(transformers, name)(config).eval()
    module.save_pretrained(folder, **options)
    return module


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "request.npz", input_ids=np.random.default_rng(0).integers(3, 99, (4, 12)))
    return tmp_path / "request.npz"


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "6KB"}], ids=["one file", "shards"])
@pytest.mark.parametrize("name", SMALL)
def test_a_folder_is_opened_with_its_own_class(
    name: str, options: dict[str, Any], tmp_path: Path, request_file: Path
) -> None:
    module = write_folder(tmp_path / "model", name, **options)
    loaded = load_program(tmp_path / "model", inputs=request_file)
    assert loaded.kind is ModelKind.HUGGING_FACE
    ids = torch.tensor(np.load(request_file)["input_ids"])
    with torch.no_grad():
        expected = (
            module(input_ids=ids, use_cache=False) if "T5" not in name and "Bert" not in name else module(input_ids=ids)
        )
    torch.testing.assert_close(
        next(iter(loaded.program({"input_ids": ids}).values())), expected[0], rtol=1e-4, atol=1e-5
    )
    assert name in loaded.program.notes[0]


def test_half_precision_is_said(tmp_path: Path, request_file: Path) -> None:
    write_folder(tmp_path / "model", "BertModel")
    path = tmp_path / "model" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    loaded = load_program(tmp_path / "model", inputs=request_file)
    assert any("bfloat16" in note for note in loaded.program.notes)
    assert {p.dtype for p in loaded.program.parameters().values()} == {torch.float32}


def change_config(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return apply


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "code in the folder": (
        change_config(architectures=["Mine"], model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Mine"}),
        "--factory",
    ),
    "another class": (change_config(architectures=["Trainer"]), "--factory"),
    "a class of code": (change_config(architectures=["__import__('os').system"]), "--factory"),
    "wide": (change_config(hidden_size=1 << 20, intermediate_size=1 << 22), "much larger|does not describe"),
    "deep": (change_config(num_hidden_layers=10**9), "much larger"),
    "long positions": (change_config(max_position_embeddings=10**10), "much larger|does not describe"),
    "more layers": (change_config(num_hidden_layers=3), "lacks weights"),
    "other sizes": (change_config(vocab_size=101), "lacks weights|cannot be read"),
    "a kernel of a hub": (change_config(_attn_implementation="someone/kernel:attention"), "code from a hub"),
    "a kernel of a part": (change_config(text_config={"attn_implementation": {"": "someone/kernel"}}), "code from a hub"),
    "quantized": (change_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "quantized"),
    "no object": (write("config.json", b"[]"), "not a JSON object"),
    "no JSON": (write("config.json", b"\xff{"), "not a JSON object"),
    "words": (change_config(hidden_size="wide"), "does not"),
    "no weights": (write("model.safetensors", b"\x10" + bytes(30)), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_by_name(
    name: str, tmp_path: Path, request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "model", "BertModel")
    (tmp_path / "model" / "mine.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    change, said = HOSTILE[name]
    change(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises((ModelFileError, UsageError), match=said) as raised:
        load_program(tmp_path / "model", inputs=request_file)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "marker").exists()


def test_a_folder_without_transformers_says_what_to_install(
    tmp_path: Path, request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sharded(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match="pip install transformers"):
        load_program(tmp_path / "model", inputs=request_file)


def test_weights_of_a_folder_fit_a_factory_without_transformers(tmp_path: Path) -> None:
    write_sharded(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert (
        load_program(tmp_path / "model", factory=FACTORY, inputs=write_request(tmp_path)).kind is ModelKind.HUGGING_FACE
    )
