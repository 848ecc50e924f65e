"""What the mean of several networks' predictions is worth, beside each of them.

    python evaluate.py --model=runs/one --data=UTKFace \
        --split_lists=datasets/utkface/splits --output=reports/one
    python benchmarks/ensemble.py reports/one/predictions.csv \
        reports/other/predictions.csv --json=bench_output/ensemble.json

reads what evaluate.py wrote, and scores each file and the mean of every choice of two
files and more: years, and probabilities of classes.
"""

import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags

_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")


def main(argv):
    import numpy as np

    from hydranet_tf.evaluation import scores
    from hydranet_tf.io import tables
    from hydranet_tf.tasks import TASKS

    if len(argv) < 3:
        raise app.UsageError("give the tables.csv of two networks or more")
    names = {task.name: task for task in TASKS}
    try:
        rows = [cells for _, cells in tables.read_table(argv[1], ["id", *names])]
        ids = [cells["id"] for cells in rows]
        files = {path: tables.read_predictions(path, ids) for path in argv[1:]}
    except tables.SourceError as error:
        raise app.UsageError(str(error)) from error
    for path, predicted in files.items():
        if predicted.keys() != set(TASKS):
            raise app.UsageError(f"{path} does not predict all of {', '.join(names)}")
    labels = {
        name: np.array([task.parse(cells[name]) for cells in rows])
        for name, task in names.items()
    }
    found = {}
    for count in range(1, len(files) + 1):
        for chosen in itertools.combinations(files, count):
            row = found[" + ".join(chosen)] = {}
            for task in TASKS:
                mean = np.mean([files[path][task] for path in chosen], axis=0)
                for kind, score in scores.score(task, labels[task.name], mean).items():
                    row[f"{task.name}_{kind}"] = score.to_json()
            print(
                f"{' + '.join(chosen)}: {row['age_mae']['value']:.2f} years, "
                f"{100 * row['gender_accuracy']['value']:.1f} %, "
                f"{100 * row['race_accuracy']['value']:.1f} %",
                flush=True,
            )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
