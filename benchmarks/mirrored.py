"""What it is worth to predict for a face and for its mirror image.

    python benchmarks/mirrored.py --preset=hydranet_tf/presets/NAME --data=UTKFace \
        --split_lists=datasets/utkface/splits --json=bench_output/mirrored.json

scores the validation part as it is, mirrored, and with the mean of both faces' logits.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags

_PRESET = flags.DEFINE_string("preset", None, "A preset's folder.", required=True)
_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_JSON = flags.DEFINE_string("json", None, "File for the raw numbers.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    import numpy as np

    from hydranet_tf.data import pipeline, sources
    from hydranet_tf.heads import task_metrics
    from hydranet_tf.model import HydraNet

    model = HydraNet.from_preset(_PRESET.value)
    opened = sources.open_source(
        _DATA.value,
        "validation",
        data_dir=_DATA_DIR.value,
        split_lists=_SPLIT_LISTS.value,
    )
    faces = pipeline.load_faces(opened, model.image_size)
    images = np.asarray(faces.images)
    plain, mirrored = (
        model.network.predict(pixels, batch_size=128, verbose=0)
        for pixels in (images, images[:, :, ::-1])
    )
    both = {name: (plain[name] + mirrored[name]) / 2 for name in plain}
    found = {}
    for way, logits in (("plain", plain), ("mirrored", mirrored), ("both", both)):
        found[way] = {}
        for task in model.tasks:
            for score in task_metrics([task])[task.name]:
                score.update_state(faces.examples.labels[task.name], logits[task.name])
                found[way][f"{task.name}_{score.name}"] = float(score.result())
        scores = ", ".join(f"{name} {value:.4f}" for name, value in found[way].items())
        print(f"{way}: {scores}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
