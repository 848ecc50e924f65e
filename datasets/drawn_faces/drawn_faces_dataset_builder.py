"""Labelled drawings, made on the spot: nothing to download, no licence to mind.

python datasets/drawn_faces/drawn_faces_dataset_builder.py --data_dir=DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import face_drawing
import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging
from etils import epath

# A checkout works without being installed. At the end of the path, because the
# root holds scripts with names like `train` and `evaluate`.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from hydranet_tf import notices, tasks  # noqa: E402


class Builder(tfds.core.GeneratorBasedBuilder):
    """Cartoon faces whose shapes encode age, gender and race."""

    # Both would be inferred from the module's name, which is `__main__` in a
    # script.
    name = "drawn_faces"
    pkg_dir_path = epath.Path(__file__).parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    IMAGE_SIZE = 96
    # Every split is the beginning of a series of its own.
    SEEDS = {"train": 0, "validation": 1, "test": 2}
    COUNTS = {"train": 2048, "validation": 256, "test": 256}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(self.IMAGE_SIZE, self.IMAGE_SIZE, 3)
                    ),
                    "age": tfds.features.Scalar(np.float32),
                    "gender": tfds.features.ClassLabel(names=tasks.GENDER.classes),
                    "race": tfds.features.ClassLabel(names=tasks.RACE.classes),
                    "id": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {split: self._generate_examples(split) for split in self.COUNTS}

    def _generate_examples(self, split: str):
        for number in range(self.COUNTS[split]):
            face = face_drawing.draw_face(self.SEEDS[split], number, self.IMAGE_SIZE)
            name = f"{split}_{number:05d}"
            yield (
                name,
                {
                    "image": face.jpeg,
                    "age": face.age,
                    "gender": face.gender,
                    "race": face.race,
                    "id": name,
                },
            )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    # TFDS would import it in the middle of a progress bar.
    with notices.held_back():
        import tensorflow  # noqa: F401
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    builder = Builder(data_dir=flags.FLAGS.data_dir)
    builder.download_and_prepare()
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples} images")
    print(f"{builder.data_path} is ready")


if __name__ == "__main__":
    # Not at import: train.py and the other builder have a flag of this name.
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared data sets.", required=True
    )
    notices.begin(sys.argv[1:])
    app.run(main)
