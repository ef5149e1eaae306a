"""The faults of the spool's disk, against the real gateway; with the servers of the client tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))

from rig import BINARY, LONG, Rig  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only under MIZUCHI_LONG, which make faults-long sets")


def pytest_collection_modifyitems(config, items):
    """What is long is not there otherwise: nothing passes that did not run."""
    left_out = [item for item in items if item.get_closest_marker("long") and not LONG]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def rig(tmp_path):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: make build, or set MIZUCHI_BIN", returncode=2)
    rig = Rig(tmp_path)
    yield rig
    rig.close()
