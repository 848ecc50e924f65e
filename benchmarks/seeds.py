"""The same settings with several seeds: runs of train.py, and their scores in a table.

Every run is a workdir: what is interrupted goes on, what is finished is only read.
Scores are of the last epoch, not of the best: nothing is chosen on the faces that
score.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SCORES = {
    "age": "val_age_mae",
    "gender": "val_gender_accuracy",
    "race": "val_race_accuracy",
}

_TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def trained(settings: Iterable[str], workdir: Path) -> dict[str, float]:
    """Trains, or reads what was trained; scores of the last epoch by task."""
    command = [sys.executable, _TRAIN, *settings, f"--workdir={workdir}"]
    subprocess.run(command, check=True)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    return {task: last[name] for task, name in SCORES.items()}


def rows(found: Mapping[str, Sequence[Mapping[str, float]]]):
    """Lines of Markdown: mean over seeds, and half the range from seed to seed.

    Args:
        found: by the name of a row, the scores of each seed.
    """
    for name, runs in found.items():
        cells = [_cell(task, [run[task] for run in runs]) for task in SCORES]
        yield f"| {name} | {' | '.join(cells)} |"


def _cell(task, values):
    scale, unit = (1, " years") if task == "age" else (100, " %")
    mean, half = statistics.mean(values), (max(values) - min(values)) / 2
    return f"{scale * mean:.2f} ± {scale * half:.2f}{unit}"
