"""One pool of processes for all meshes."""

from collections.abc import Iterator

import pytest
from process_pool import ProcessPool


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """Processes that are started when a test first needs them."""
    processes = ProcessPool()
    yield processes
    processes.close()
