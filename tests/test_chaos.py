"""The scenes of tests/chaos, at a lower rate: `make chaos` plays them in full."""

import subprocess
import sys

import pytest

from gateway_site.home import BASE_DIR


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_books_are_right_after_every_scene() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--per-second", "60", "--seed", "1"],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    print(played.stdout)
    assert played.returncode == 0, played.stdout[-6000:] + played.stderr[-3000:]
