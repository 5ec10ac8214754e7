"""Hugging Face backbones as sequence recommenders, with random weights; needs `transformers`."""

from typing import Any

import pytest
import torch

from recprune_export import compress
from recprune_export.program.capture import capture
from recprune_export.program.capture._capture import program_from_exported

transformers = pytest.importorskip("transformers")
ITEMS, LENGTH = 100, 6


def make_backbone(name: str) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": ITEMS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    encoder = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": LENGTH}
    if name == "gpt2":
        config = transformers.GPT2Config(n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, **sizes)
        return transformers.GPT2LMHeadModel(config)
    if name == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **encoder, **sizes)
        )
    if name == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(num_attention_heads=2, **encoder, **sizes))
    return transformers.T5EncoderModel(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **sizes)
    )


def make_request(labels: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, ITEMS, (8, LENGTH))
    mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (8, 1))).long()
    return {"input_ids": ids, "attention_mask": mask, **({"labels": ids} if labels else {})}


BACKBONES = ("gpt2", "llama", "bert", "t5")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_captured_as_it_is(name: str) -> None:
    model, request = make_backbone(name), make_request(labels=name != "t5")
    program = capture(model, (), request)
    assert [i.name for i in program.signature.inputs] == ["input_ids", "attention_mask"]
    assert [o.name for o in program.signature.outputs] == ["last_hidden_state" if name == "t5" else "logits"]
    assert any("'loss'" in note for note in program.notes) is (name != "t5")
    assert any("DynamicCache" in note for note in program.notes) is (name in ("gpt2", "llama"))
    assert any(group.kind == "hidden" for group in program.analysis.groups)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gets_a_bundle(name: str, tmp_path) -> None:
    options = {"epochs": 0, "quick": True, "structured_fraction": 0.8, "batch_size": 32, "latency_batch_sizes": (4,)}
    result = compress(make_backbone(name), make_request(labels=False), tmp_path / "b", **options)
    assert result.parity.passed
    # The encoder of T5 returns the stream that its table writes to, so all of its dimensions stay.
    assert (result.reduction.removed.tables > 0.3) is (name != "t5")
    assert result.reduction.removed.rest > 0.3


def test_an_exported_program_with_its_cache_serves_the_logits() -> None:
    executorch = pytest.importorskip("transformers.integrations.executorch")
    executorch.register_dynamic_cache_export_support()
    batch = torch.export.Dim("batch", min=2)
    request = make_request(labels=False)
    shapes = {name: {0: batch} for name in request}
    model = make_backbone("gpt2").eval()
    exported = torch.export.export(model, (), request, dynamic_shapes=shapes, strict=False)
    program = program_from_exported(exported)
    assert [o.name for o in program.signature.outputs] == ["logits"]
    assert any("cache" in note for note in program.notes)
    assert torch.allclose(program(request)["logits"], model(**request).logits, atol=1e-4)
