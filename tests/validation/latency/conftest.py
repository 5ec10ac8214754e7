import pytest

from recprune_export.validation.latency import turns


@pytest.fixture(autouse=True)
def no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the calls that map pages, whatever earlier tests of this process have mapped."""
    monkeypatch.setattr(turns, "has_registered_maps", lambda: False)
