"""The same settings with several seeds: runs of train.py, and their scores in a table.

Every run is a workdir: what is interrupted goes on, what is finished is only read.
Scores are of the last epoch, not of the best: nothing is chosen on the faces that
score.
"""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from absl import flags

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", "", "As in train.py.")
_CACHE = flags.DEFINE_string("cache", "memory", "As in train.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs of each kind.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the raw numbers.")

SCORES = {
    "age": "val_age_mae",
    "gender": "val_gender_accuracy",
    "race": "val_race_accuracy",
}

_TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def kind(name: str, settings: Iterable[str]) -> list[dict[str, float]]:
    """Trains with every seed, printing scores under the name of the kind of run."""
    settings = list(settings)
    runs = [trained(name, settings, seed) for seed in range(_SEEDS.value)]
    for run in runs:
        print(name, *(f"{task} {run[task]:.4f}" for task in run), flush=True)
    return runs


def trained(name: str, settings: Iterable[str], seed: int) -> dict[str, float]:
    """Trains, or reads what was trained; scores of the last epoch by task."""
    folder = re.sub("[ ,]+", "_", name)
    workdir = Path(_WORKDIR.value) / f"{folder}-seed{seed}"
    command = [
        sys.executable, _TRAIN, f"--data={_DATA.value}",
        f"--data_dir={_DATA_DIR.value}", f"--split_lists={_SPLIT_LISTS.value}",
        f"--cache={_CACHE.value}", f"--seed={seed}", *settings, f"--workdir={workdir}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    return {task: last[name] for task, name in SCORES.items()}


def keep(found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Writes the scores of all runs to the file that was asked for."""
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


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
