"""Options of all tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something of the machine and nothing of the product.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--rewrite``: write what was observed into the expectation files; review the difference before committing it."""
    parser.addoption("--rewrite", action="store_true", default=False, help="rewrite scenarios and screens as observed")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether expectation files are to be rewritten."""
    return bool(request.config.getoption("--rewrite"))
