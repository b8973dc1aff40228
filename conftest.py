"""What holds for tests/ and notebooks/ together."""

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps coverage out of the notebooks' kernels, where it would slow training; nbval looks for this option."""
    if getattr(session.config.option, "cov_source", None):
        session.config.option.cov_source = None
