"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data beside the checkout; without it the test skips, or fails where it is required."""
    if not SHARED.is_dir():
        if os.environ.get("CAMELID_REQUIRE_SHARED") == "1":
            pytest.fail(f"{SHARED} is missing, and CAMELID_REQUIRE_SHARED=1 says that it must be there")
        pytest.skip("the shared sample data is not beside this checkout")
    return SHARED
