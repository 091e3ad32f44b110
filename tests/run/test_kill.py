"""SIGKILL at random moments of a run, then resume: rows, pictures, scores and figures equal those of an uninterrupted
run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("benchmark", "kills"),
    [("erasure", 24), ("m-erasure", 12), pytest.param("guards", 24, marks=SLOW), pytest.param("fits", 24, marks=SLOW)],
)
def test_kills_at_random_moments_lose_nothing_and_double_nothing(benchmark: str, kills: int, tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), str(kills), "4", benchmark],
        capture_output=True,
        text=True,
        env=env,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    done = json.loads(ran.stdout.strip().splitlines()[-1])
    assert done["kills"] >= kills - 4 and done["late"] >= 1, done
    assert done["different"] == done["doubles"] == done["problems"] == 0, (done, ran.stderr[-2000:])
