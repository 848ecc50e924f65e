"""All-Age-Faces as a TFDS data set, built from files that people have already.

    python datasets/all_age_faces/all_age_faces_dataset_builder.py \
        --manual_dir=DIR --data_dir=DIR

Labels come from the file names and splits from the lists in `splits/`, read by
the code that the folder source uses, so both give the same examples.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging
from etils import epath

# A checkout works without being installed. At the end of the path, because the
# root holds scripts with names like `train` and `evaluate`.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from hydranet_tf import notices, tasks  # noqa: E402
from hydranet_tf.data import file_names, sources  # noqa: E402
from hydranet_tf.io.tables import SourceError, listing  # noqa: E402

# As the authors describe it, as some copies spell it, and as people name it.
_IMAGE_FOLDERS = ("aligned faces", "aglined faces", "faces")


class Builder(tfds.core.GeneratorBasedBuilder):
    """One face a person with age and gender; no label of race."""

    # Both would be inferred from the module's name, which is `__main__` in a
    # script.
    name = "all_age_faces"
    pkg_dir_path = epath.Path(__file__).parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version: splits as listed."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Put the images into the manual folder (see
https://github.com/JingchunCheng/All-Age-Faces-Dataset for where to get them):

  manual_dir/
    aligned faces/                 or faces/, or the images directly
      00000A02.jpg
      ...
"""

    SPLIT_LISTS = pkg_dir_path / "splits"

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "age": tfds.features.Scalar(np.float32),
                    "gender": tfds.features.ClassLabel(names=tasks.GENDER.classes),
                    "id": tfds.features.Text(),
                }
            ),
            homepage="https://github.com/JingchunCheng/All-Age-Faces-Dataset",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        try:
            folder = dl_manager.manual_dir
        except AssertionError as error:
            # What TFDS raises for a folder that is empty or not there; its
            # message holds the instructions above.
            raise SourceError(str(error)) from error
        images = {path.name: path for path in _images(folder)}
        lists = file_names.read_split_lists(self.SPLIT_LISTS)
        lists["test"] = sorted(set(images).difference(*lists.values()))
        generators, skipped = {}, []
        for split, listed in lists.items():
            names = file_names.listed_and_present(lists, split, images)
            if not names:
                logging.warning(
                    "THE SPLIT '%s' IS ABSENT: none of its images is in %s.",
                    split,
                    folder,
                )
                continue
            labels, left_out = file_names.label_names(names)
            logging.info("%s: %d of %d images", split, len(labels), len(listed))
            skipped += [(split, s.id, s.reason) for s in left_out]
            if labels:
                generators[split] = self._generate_examples(images, labels)
        if not generators:
            raise SourceError(
                f"expected images named like 00123A45.jpg in {folder}; found "
                f"{listing(images)}\n\n{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        # While TFDS prepares, data_path is the folder that becomes the data set.
        sources.write_skipped(self.data_path, skipped)
        return generators

    def _generate_examples(
        self,
        images: dict[str, epath.Path],
        labels: dict[str, file_names.Labels],
    ):
        for name, found in labels.items():
            features = {"age": found["age"], "gender": found["gender"]}
            yield name, {"image": images[name].read_bytes(), "id": name, **features}


def _images(folder: epath.Path) -> list[epath.Path]:
    """The images in the first folder that holds some."""
    candidates = [folder]
    for pattern in _IMAGE_FOLDERS:
        candidates += sorted(folder.glob(pattern)) + sorted(folder.glob(f"*/{pattern}"))
    for candidate in candidates:
        found = [
            path
            for path in sorted(candidate.iterdir())
            if file_names.is_image(path.name)
        ]
        if found:
            return found
    inside = listing(sorted(path.name for path in folder.iterdir()))
    raise SourceError(
        f"the manual folder {folder} holds no image where one is looked for; it holds "
        f"{inside or 'nothing'}. Expected:\n\n{Builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    # TFDS would import it in the middle of a progress bar.
    with notices.held_back():
        import tensorflow  # noqa: F401
    builder = Builder(data_dir=flags.FLAGS.data_dir)
    if builder.is_prepared():
        print(f"{builder.data_path} is there already; delete it to build it anew.")
    config = tfds.download.DownloadConfig(manual_dir=flags.FLAGS.manual_dir)
    try:
        builder.download_and_prepare(download_config=config)
    except SourceError as error:
        raise SystemExit(f"all_age_faces: {error}") from error
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples} images")
    print(f"{builder.data_path} is ready; {sources.SKIPPED_FILE} there lists the rest")


if __name__ == "__main__":
    # Not at import: train.py and the other builders have flags of these names.
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared data sets.", required=True
    )
    flags.DEFINE_string("manual_dir", None, "Folder with the images.", required=True)
    notices.begin(sys.argv[1:])
    app.run(main)
