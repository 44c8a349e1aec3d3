"""Options of all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--rewrite``: write what was observed into the expectation files; review the difference before committing it."""
    parser.addoption("--rewrite", action="store_true", default=False, help="rewrite scenarios and screens as observed")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether expectation files are to be rewritten."""
    return bool(request.config.getoption("--rewrite"))
