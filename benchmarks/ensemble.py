"""What the mean of several networks' answers is worth, beside each of them.

    python evaluate.py --model=runs/one --data=UTKFace \
        --split_lists=datasets/utkface/splits --output=reports/one
    python benchmarks/ensemble.py reports/one/predictions.csv \
        reports/other/predictions.csv --json=results/ensemble.json

reads what evaluate.py wrote for the same faces, and scores each file and the mean of
every choice of two files and more: years, and probabilities of classes.
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

    from hydranet_tf.files import tables
    from hydranet_tf.reports import scores
    from hydranet_tf.tasks import TASKS

    if len(argv) < 3:
        raise app.UsageError("give the predictions.csv of two networks or more")
    files = {
        path: {cells["id"]: cells for _, cells in tables.read_table(path, ["id"])}
        for path in argv[1:]
    }
    ids = next(iter(files.values())).keys()
    for path, rows in files.items():
        if rows.keys() != ids:
            raise app.UsageError(f"{path} answers for other faces than {argv[1]}")

    def column(path, name, read=float):
        return np.array([read(files[path][i][name]) for i in ids])

    labels = {task: column(argv[1], task.name, task.parse) for task in TASKS}
    found = {}
    for count in range(1, len(files) + 1):
        for chosen in itertools.combinations(files, count):
            row = found[" + ".join(chosen)] = {}
            for task in TASKS:
                answers = np.mean(
                    [
                        [column(path, name) for name in task.answer_columns]
                        for path in chosen
                    ],
                    axis=0,
                )
                answers = answers.T if task.classes else answers[0]
                for name, score in scores.score(task, labels[task], answers).items():
                    row[f"{task.name}_{name}"] = score.to_json()
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
