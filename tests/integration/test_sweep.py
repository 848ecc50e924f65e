"""The search of examples/sweep.py, on drawn faces."""

from __future__ import annotations

import json
import re
from pathlib import Path

import forks
import pytest
import synthetic

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "examples" / "sweep.py"


@pytest.mark.long
def test_a_search_finds_its_best_run_and_goes_on(tmp_path):
    faces = synthetic.write_folder(tmp_path / "faces", 60, side=32)

    def run():
        done = forks.run([SWEEP, faces, tmp_path / "sweep", "2", "1"], cwd=ROOT)
        assert not done.returncode, done.stderr
        return re.search(r"best of (\d+): ([\d.]+) years", done.stdout)

    assert run()[1] == "2"
    found = run()
    assert found[1] == "4"
    logs = [tmp_path / "sweep" / f"trial_{i}" / "metrics.jsonl" for i in range(4)]
    scores = [json.loads(log.read_text())["val_age_mae"] for log in logs]
    assert float(found[2]) == pytest.approx(min(scores), abs=0.006)
    settings = [
        json.loads((log.parent / "config.json").read_text())["learning_rate"]
        for log in logs
    ]
    assert len(set(settings)) == 4


def test_it_stays_short():
    assert len(SWEEP.read_text().splitlines()) <= 36
