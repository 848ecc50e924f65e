"""UTKFace as a TFDS data set, built from files that people have already.

    python datasets/utkface/utkface_dataset_builder.py \
        --manual_dir=DIR --data_dir=DIR

Labels come from the file names and splits from the lists in `splits/`, read by
the code that the folder source uses, so both give the same examples.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

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

_IMAGE_FOLDER = "UTKFace"
_WHOLE_ARCHIVE = "UTKFace.tar.gz"
_HALF_ARCHIVES = ("utkface-1-of-2.tar", "utkface-2-of-2.tar")
_UNREADABLE = (tarfile.TarError, EOFError, zlib.error, OSError)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Faces of 200 x 200 pixels with age, gender and race as annotated."""

    # Both would be inferred from the module's name, which is `__main__` in a
    # script.
    name = "utkface"
    pkg_dir_path = epath.Path(__file__).parent

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version: splits and corrections as listed."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Put one of these into the manual folder (images: https://susanqq.github.io/UTKFace/,
"aligned and cropped faces"; non-commercial research only):

  manual_dir/
    UTKFace/                       the extracted folder
      26_1_0_20170116171048641.jpg.chip.jpg
      ...

  manual_dir/
    UTKFace.tar.gz                 the archive, with UTKFace/*.jpg inside

  manual_dir/
    utkface-1-of-2.tar             two archives, each with UTKFace/*.jpg inside
    utkface-2-of-2.tar
"""

    SPLIT_LISTS = pkg_dir_path / "splits"

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "age": tfds.features.Scalar(np.float32),
                    # TFDS keeps -1 for a class label that is not there.
                    "gender": tfds.features.ClassLabel(names=tasks.GENDER.classes),
                    "race": tfds.features.ClassLabel(names=tasks.RACE.classes),
                    "id": tfds.features.Text(),
                }
            ),
            homepage="https://susanqq.github.io/UTKFace/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        try:
            folder = dl_manager.manual_dir
        except AssertionError as error:
            # What TFDS raises for a folder that is empty or not there; its
            # message holds the instructions above.
            raise SourceError(str(error)) from error
        lists = file_names.read_split_lists(self.SPLIT_LISTS)
        corrections = file_names.read_corrections(self.SPLIT_LISTS)
        found = [name for name, _ in _images(folder)]
        _check_found(folder, found, lists)
        generators, skipped = {}, []
        for split, listed in lists.items():
            if not file_names.listed_and_present(lists, split, found):
                if listed:
                    logging.warning(
                        "THE SPLIT '%s' IS ABSENT: none of its %d files is in %s.",
                        split,
                        len(listed),
                        folder,
                    )
                continue
            labels, left_out = file_names.label_names(
                listed, corrections if split == "train" else None
            )
            logging.info(
                "%s: %d images, %d left out", split, len(labels), len(left_out)
            )
            skipped += [(split, s.id, s.reason) for s in left_out]
            generators[split] = self._generate_examples(folder, labels)
        unlisted = sorted(set(found).difference(*lists.values()))
        skipped += [("", name, "in none of the split lists") for name in unlisted]
        # While TFDS prepares, data_path is the folder that becomes the data set.
        sources.write_skipped(self.data_path, skipped)
        return generators

    def _generate_examples(
        self, folder: epath.Path, labels: dict[str, file_names.Labels]
    ):
        count = 0
        for name, read in _images(folder):
            if name in labels:
                count += 1
                yield name, {"image": read(), "id": name, **labels[name]}
        if count != len(labels):
            raise SourceError(
                f"expected {len(labels)} images of a split in {folder}, read {count}; "
                "did the files change meanwhile?"
            )


def _images(folder: epath.Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields the name of every image and a function that reads its bytes.

    Archives are read member by member and nothing of them is written, so the
    paths inside them lead nowhere.
    """
    if (folder / _IMAGE_FOLDER).is_dir():
        for path in sorted((folder / _IMAGE_FOLDER).iterdir()):
            if file_names.is_image(path.name):
                yield path.name, path.read_bytes
        return
    for archive in _archives(folder):
        with _readable(archive), archive.open("rb") as file:
            with tarfile.open(fileobj=file, mode="r:*") as members:
                for member in members:
                    path = PurePosixPath(member.name)
                    in_folder = path.parent.name == _IMAGE_FOLDER
                    if member.isfile() and in_folder and file_names.is_image(path.name):
                        yield path.name, members.extractfile(member).read


def _archives(folder: epath.Path) -> list[epath.Path]:
    whole = folder / _WHOLE_ARCHIVE
    if whole.exists():
        return [whole]
    halves = [folder / name for name in _HALF_ARCHIVES]
    if all(half.exists() for half in halves):
        return halves
    raise SourceError(_found_instead(folder))


@contextlib.contextmanager
def _readable(archive: epath.Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise SourceError(
            f"{archive} is damaged or incomplete ({error}); fetch it again"
        ) from error


def _check_found(folder: epath.Path, found: list[str], lists) -> None:
    twice = [name for name, n in collections.Counter(found).items() if n > 1]
    if twice:
        raise SourceError(f"{folder} holds files twice: {listing(twice)}")
    if set(found).isdisjoint(set().union(*lists.values())):
        raise SourceError(_found_instead(folder))


def _found_instead(folder: epath.Path) -> str:
    lines = []
    for path in sorted(folder.iterdir())[:10]:
        lines.append(f"    {path.name}{'/' if path.is_dir() else ''}")
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir())
            lines += [f"      {name}" for name in inside[:3]]
            lines.append(f"      ({len(inside)} entries)")
    return (
        "the manual folder does not hold the listed images.\n\nExpected:\n"
        f"{Builder.MANUAL_DOWNLOAD_INSTRUCTIONS}\nFound:\n\n  {folder}/\n"
        + ("\n".join(lines) or "    (nothing)")
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
        raise SystemExit(f"utkface: {error}") from error
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples} images")
    print(f"{builder.data_path} is ready; {sources.SKIPPED_FILE} there lists the rest")


if __name__ == "__main__":
    # Not at import: train.py and the other builder have flags of these names.
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared data sets.", required=True
    )
    flags.DEFINE_string("manual_dir", None, "Folder with the images.", required=True)
    notices.begin(sys.argv[1:])
    app.run(main)
