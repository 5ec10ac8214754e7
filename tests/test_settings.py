import pytest

from recprune_export.errors import UsageError
from recprune_export.settings import FineTuningSettings, LabelSettings, PruningSettings, Settings, parse_batch_sizes


def test_a_part_may_have_a_sparsity_of_its_own() -> None:
    assert (PruningSettings(0.5).table_sparsity, PruningSettings(0.5).rest_sparsity) == (0.5, 0.5)
    apart = PruningSettings(0.5, embedding_sparsity=0.9, hidden_sparsity=0.0)
    assert (apart.table_sparsity, apart.rest_sparsity) == (0.9, 0.0)


@pytest.mark.parametrize(
    "values",
    [
        {"sparsity": 1.0},
        {"sparsity": float("nan")},
        {"latency_batch_sizes": ()},
        {"structured_fraction": -1.0},
        {"regularize": -1.0},
        {"regularize": 1.0, "epochs": 0},
        {"pruning_stages": 0},
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings().with_options(**values)


def test_options_are_flat_and_parts_nested() -> None:
    settings = Settings(0.9, epochs=2, shared_inputs=("user",), seed=3)
    assert settings.pruning == PruningSettings(0.9)
    assert settings.finetuning == FineTuningSettings(epochs=2)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert not any(isinstance(value, dict) for value in settings.to_dict().values())
    former = {"steps": 2, "batches": [1], "licence": "MIT"}
    assert Settings.from_dict(former) == Settings(pruning_stages=2, latency_batch_sizes=(1,), license="MIT")
    with pytest.raises(TypeError, match="sparsty"):
        Settings(sparsty=0.9)


@pytest.mark.parametrize("text", ["", "1,,2", "a", "1.5"])
def test_no_list_of_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--latency-batch-sizes"):
        parse_batch_sizes(text)


def test_stages_keep_equal_shares_of_what_is_left() -> None:
    settings = PruningSettings(0.9, hidden_sparsity=0.5, pruning_stages=3)
    kept = [1 - settings.at_stage(stage).table_sparsity for stage in (1, 2, 3)]
    assert kept[1] / kept[0] == pytest.approx(kept[0]) == pytest.approx(kept[2] / kept[1])
    last = settings.at_stage(3)
    assert (last.table_sparsity, last.rest_sparsity) == pytest.approx((0.9, 0.5))
    assert settings.at_stage(1).rest_sparsity == pytest.approx(1 - 0.5 ** (1 / 3))


def test_weights_and_missing_labels_belong_to_rows_with_labels() -> None:
    LabelSettings().refuse_for_histories()
    with pytest.raises(UsageError, match="--missing-label applies to rows with labels"):
        LabelSettings(missing_label="-1").refuse_for_histories()


def test_how_open_trials_count_needs_a_search() -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        Settings(undecided="pass")


def test_bits_are_chosen_once() -> None:
    with pytest.raises(UsageError, match="leave out --quantize"):
        Settings(max_bytes="10%", quantize="int8")


@pytest.mark.parametrize(
    "options", [{"max_bytes": "10%"}, {"max_bytes": "20MB", "max_drop": 0.001}, {"target_latency": "0.5ms@256,80us@1"}]
)
def test_budgets_are_recorded_as_they_were_given(options: dict[str, object]) -> None:
    settings = Settings(**options)  # type: ignore[arg-type]
    assert Settings.from_dict(settings.to_dict()) == settings
    assert settings.to_dict().items() >= options.items()


def test_a_search_of_a_former_bundle_is_one_of_the_sparsity() -> None:
    former = {
        name: value for name, value in Settings(max_drop=0.001, quantize="int8").to_dict().items() if name != "minimize"
    }
    assert Settings.from_dict(former).search.minimize == "latency"
    assert Settings.from_dict({"sparsity": 0.9}).search.minimize == "bytes"
