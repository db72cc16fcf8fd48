"""The scenes of tests/chaos, at a lower rate: `make chaos` plays them in full."""

import subprocess
import sys

import pytest

from gateway_site.home import BASE_DIR

# Times are for `make chaos` on a quiet machine; here it is the books that count.
NAMES = ("nothing", "kill -9", "empty the store", "old snapshot", "pause the store", "everything")
SCENES = [word for name in NAMES for word in ("--scene", name)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_books_are_right_after_each_scene() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--per-second", "60", "--seed", "1", "--slack", "3", *SCENES],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    print(played.stdout)
    assert played.returncode == 0, played.stdout[-6000:] + played.stderr[-3000:]
