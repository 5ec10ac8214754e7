import pytest

from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.recommenders import RECOMMENDERS
from tests.recommenders.test_recommenders import make, spec_of


@pytest.fixture(scope="module", params=sorted(RECOMMENDERS))
def recommender(request: pytest.FixtureRequest) -> Program:
    return capture(make(request.param), (spec_of(request.param).example_request(),))
