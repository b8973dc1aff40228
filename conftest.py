"""What holds for tests/ and notebooks/ together."""

import os
import tempfile

import pytest

# The learner's progress file of a test run is not the reader's own; kernels of notebooks inherit this.
_home = tempfile.TemporaryDirectory(prefix="saekit-home-")
os.environ["SAEKIT_HOME"] = _home.name


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps coverage out of the notebooks' kernels, where it would slow training; nbval looks for this option."""
    if getattr(session.config.option, "cov_source", None):
        session.config.option.cov_source = None
