"""What is decided follows what was asked, part by part."""

import pytest

from recprune_export.compression.compress import drawn_requests
from recprune_export.compression.planning import decide
from recprune_export.settings import Settings
from tests.pruning.models import scorer


@pytest.mark.parametrize("share", [None, 1.0])
def test_tables_of_which_nothing_is_to_go_keep_their_dimensions(share: float | None) -> None:
    program, _ = scorer()
    settings = Settings(embedding_sparsity=0.0, hidden_sparsity=0.95, structured_share=share, round_to=1)
    groups = decide(program, settings, drawn_requests(program, settings)).groups
    assert all(len(part.keep) == part.width for part in groups if part.kind == "embedding")
    assert all(len(part.keep) < part.width / 2 for part in groups if part.kind == "hidden")
