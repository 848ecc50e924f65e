"""Labelled images before they are decoded, from TFDS, a folder or a table.

Every source ends in the same `Examples`: ids, label arrays and a function that
reads the encoded image. What a source leaves out is listed with a reason; a
label is read as it stands or the example is skipped, never guessed. Labels are
what annotators saw in a picture, not facts about the person in it.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from hydranet_tf.data import importers
from hydranet_tf.data.file_names import (
    IMAGE_SUFFIXES,
    SPLITS,
    Labels,
    Skipped,
    hash_split,
    is_image,
    label_names,
    listed_and_present,
    parse_name,
    read_corrections,
    read_split_lists,
)
from hydranet_tf.data.labels import Names
from hydranet_tf.io.tables import SourceError, listing, raise_problems, read_table
from hydranet_tf.tasks import MISSING, TASKS, LabelError

ALL = "all"
# A TFDS builder writes what it left out into this file beside its records.
SKIPPED_FILE = "skipped.csv"
_SKIPPED_COLUMNS = ("split", "id", "reason")

# In the names of UTKFace's crops.
_CROP = ".chip."

_TFDS_NAME = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(:[0-9.*]+)?")

# Windows would turn line ends into others.
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
# Most faces in one go.
_READ_BYTES = 2**18


class NoExamplesError(SourceError):
    """A split without one usable example."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images, not yet decoded.

    Attributes:
        ids: `[n]` unique names, the same on every machine.
        labels: by task name, `[n]`: float32 for a regression, int32 class
            indices otherwise; `MISSING` where there is no label. Where a regression
            has ranges, their middles, and by `task.half_width_name` half their
            widths, 0 for an exact label.
        read: gives the JPEG or PNG bytes of example i.
        paths: `[n]` file paths where examples are plain files, so that
            TensorFlow can read them in its graph; else None.
        skipped: what the source left out.
        source_names: of several sources that were joined, in the order in which
            they were named; empty for one source.
        source: `[n]` which of them each example is from; None for one source.
        variant: what was done to the images on the way, if anything; it is a part of
            the digest, which names files of decoded images.
    """

    ids: np.ndarray
    labels: dict[str, np.ndarray]
    read: Callable[[int], bytes]
    paths: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()
    source_names: tuple[str, ...] = ()
    source: np.ndarray | None = None
    variant: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices` (integers, or a boolean mask), in order."""
        # NumPy makes floats of an empty list, and floats are not indices.
        indices = np.asarray(indices) if len(indices) else []
        chosen = np.arange(len(self))[indices]
        return dataclasses.replace(
            self,
            ids=self.ids[chosen],
            labels={name: values[chosen] for name, values in self.labels.items()},
            read=lambda i: self.read(int(chosen[i])),
            paths=None if self.paths is None else self.paths[chosen],
            source=None if self.source is None else self.source[chosen],
        )

    def by_source(self) -> dict[str, np.ndarray]:
        """Indices of each source's examples, in order; nothing for one source."""
        return {
            name: np.flatnonzero(self.source == number)
            for number, name in enumerate(self.source_names)
        }

    def digest(self) -> str:
        """SHA-256 (hex) over ids and labels, whatever their order.

        Two runs with the same digest saw the same examples with the same
        labels, from whichever kind of source. Of joined sources it also tells
        which example is from which.
        """
        names = sorted(self.labels)
        columns = [self.ids.tolist(), *(self.labels[n].tolist() for n in names)]
        if self.source is not None:
            columns.append(self.source.tolist())
        rows = sorted(
            "\t".join([row[0], *(repr(float(value)) for value in row[1:])])
            for row in zip(*columns, strict=True)
        )
        head = ["id", *names, *([self.variant] if self.variant else [])]
        text = "\n".join(["\t".join(head), *rows])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def join(parts: Mapping[str, Examples | None]) -> Examples:
    """Makes one of the examples of several sources.

    Args:
        parts: by the name of the source, in order; None where a source has no
            example of this split.

    Returns:
        The examples source after source. Where two sources use the same id, every id
        gets the name of its source before it: `name/id`. A task that one of the
        sources does not label is `MISSING` there.
    """
    there = {name: part for name, part in parts.items() if part is not None}
    ids = [example for part in there.values() for example in part.ids.tolist()]
    if len(set(ids)) < len(ids):
        ids = [f"{name}/{i}" for name, part in there.items() for i in part.ids.tolist()]
    numbers = [list(parts).index(name) for name in there]
    return dataclasses.replace(
        concatenate(list(there.values())),
        ids=np.array(ids),
        source_names=tuple(parts),
        source=np.repeat(numbers, [len(part) for part in there.values()]),
    )


def concatenate(parts: Sequence[Examples]) -> Examples:
    """Examples after examples, as those of two splits of the same sources."""
    names = list(dict.fromkeys(name for part in parts for name in part.labels))
    labels = {
        name: np.concatenate([_labels(part, name, parts) for part in parts])
        for name in names
    }
    bounds = np.cumsum([0, *map(len, parts)])

    def read(i: int) -> bytes:
        number = int(np.searchsorted(bounds, i, "right")) - 1
        return parts[number].read(i - int(bounds[number]))

    def joined(arrays):
        if any(array is None for array in arrays):
            return None
        return np.concatenate(arrays)

    return Examples(
        np.concatenate([part.ids for part in parts]),
        labels,
        read,
        joined([part.paths for part in parts]),
        tuple(dict.fromkeys(skipped for part in parts for skipped in part.skipped)),
        parts[0].source_names,
        joined([part.source for part in parts]),
    )


def _labels(part: Examples, name: str, parts: Sequence[Examples]) -> np.ndarray:
    if name in part.labels:
        return part.labels[name]
    dtype = next(p.labels[name].dtype for p in parts if name in p.labels)
    is_task = name in (task.name for task in TASKS)
    # Without ranges, labels are exact.
    return np.full(len(part), MISSING if is_task else 0, dtype)


def from_files(
    what: str,
    folder: Path,
    names: Sequence[str],
    rows: Sequence[Labels],
    skipped: Sequence[Skipped],
    files: Sequence[str] | None = None,
) -> Examples:
    """Examples that are files.

    Args:
        what: the split and its source, for messages.
        folder: where the files lie.
        names: of the files, which become the ids.
        files: their paths from `folder`, where these are not the names.
        rows: the labels of each.
        skipped: what was left out.

    Raises:
        NoExamplesError: if there is none.
    """
    paths = np.array([os.path.join(folder, name) for name in files or names])

    def read(i: int) -> bytes:
        # Not by `open`, whose files give up Python's lock and want it back six times,
        # each time a moment in which another thread may take it.
        file = os.open(paths[i], _READ_ONLY)
        try:
            parts = []
            while part := os.read(file, _READ_BYTES):
                parts.append(part)
        finally:
            os.close(file)
        return b"".join(parts)

    return from_rows(what, names, rows, read, paths, skipped)


def from_rows(
    what: str,
    names: Sequence[str],
    rows: Sequence[Labels],
    read: Callable[[int], bytes],
    paths: np.ndarray | None,
    skipped: Sequence[Skipped],
) -> Examples:
    """Examples of ids and rows of labels; see `Examples` and `from_files`."""
    if not len(names):
        raise NoExamplesError(
            f"there is no usable example in {what}; {len(skipped)} were skipped"
            + "".join(f"\n  {s.id}: {s.reason}" for s in skipped[:5])
        )
    if skipped:
        logging.warning(
            "%d examples of %s are left out, the first because: %s",
            len(skipped),
            what,
            skipped[0].reason,
        )
    labels = {
        task.name: np.array(
            [row[task.name] for row in rows],
            task.label_dtype,
        )
        for task in TASKS
    }
    for task in TASKS:
        widths = np.array([row.get(task.half_width_name, 0) for row in rows])
        if widths.any():
            labels[task.half_width_name] = widths.astype(np.float32)
    return Examples(np.array(names), labels, read, paths, tuple(skipped))


def open_source(
    data: str | os.PathLike,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    split_lists: str | os.PathLike | None = None,
    columns: str | None = None,
    classes: str | None = None,
) -> Examples:
    """Opens one split of any source, or of several that are joined.

    Args:
        data: a TFDS name prepared under `data_dir` (`utkface`,
            `drawn_faces:1.0.0`), a folder of UTKFace-named files, a `.csv` file with
            the columns `path,age,gender,race[,split]`, or what `importers` knows.
            Several of them, separated by commas, are joined as `join` says;
            a source that lacks the split is left out of it.
        split: `"train"`, `"validation"`, `"test"` or `"all"`.
        data_dir: where TFDS keeps prepared data sets; by default the
            environment variable `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        split_lists: for a folder: a folder with `train.txt`,
            `validation.txt` and `test.txt`, one file name a line. A
            `corrections.csv` in it or one level up is applied to `"train"`. For
            several sources one for each, separated by commas, blank where a
            source has none (`lists,`).
        columns: what a table calls ours, `path=file,age=age_range`.
        classes: what its words for classes mean, `race:East Asian=asian`; a blank
            meaning (`gender:x=`) makes a missing label.

    Raises:
        SourceError: if there is nothing to read, or something is wrong that
            would make a label or a split doubtful.
    """
    if split not in (*SPLITS, ALL):
        raise SourceError(
            f"split must be one of {', '.join((*SPLITS, ALL))}; got {split!r}"
        )
    parts = listed(data, split_lists)
    try:
        names = Names.parse(columns or "", classes or "", TASKS, len(parts) > 1)
    except LabelError as error:
        raise SourceError(str(error)) from error
    if len(parts) == 1:
        return _open_one(data, split, data_dir, split_lists or None, names)
    found: dict[str, Examples | None] = {}
    for name, (place, lists) in parts.items():
        try:
            found[name] = _open_one(place, split, data_dir, lists, names)
        except NoExamplesError as error:
            found[name] = None
            missing = error
    if not any(part is not None for part in found.values()):
        raise missing
    if unused := set(names.columns) - names.used:
        raise SourceError(
            f"--columns: no table of {', '.join(found)} has the column "
            f"{names.columns[min(unused)]!r}"
        )
    for name, part in found.items():
        if part is None:
            logging.warning("%s has no example in %r.", name, split)
    return join(found)


def listed(
    data: str | os.PathLike, split_lists: str | os.PathLike | None = None
) -> dict[str, tuple[str, str | None]]:
    """The sources that `data` names: by a name of its own each, with its lists.

    The name is that of the file or folder, or of the data set of TFDS; where two
    would be the same, that of the folder above stands before it.

    Args:
        data: see `open_source`. A path that has a comma in its name is one source.
        split_lists: see `open_source`.

    Raises:
        SourceError: if a source is named twice or is blank, or the split lists are
            not one for each source.
    """
    data, lists = str(data), str(split_lists or "")
    if "," not in data or Path(data).expanduser().exists():
        return {_source_name(data): (data, lists or None)}
    parts = [part.strip() for part in data.split(",")]
    given = [part.strip() or None for part in lists.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise SourceError(
            f"expected different sources, separated by commas; got {data!r}"
        )
    if not lists:
        given = [None] * len(parts)
    if len(given) != len(parts):
        raise SourceError(
            f"expected split lists for each of the {len(parts)} sources, separated by "
            f"commas and blank where a source has none; got {lists!r} for {data!r}"
        )
    names = [_source_name(part) for part in parts]
    if len(set(names)) < len(names):
        names = [
            f"{Path(part).expanduser().absolute().parent.name}_{name}"
            for part, name in zip(parts, names, strict=True)
        ]
    if len(set(names)) < len(names):
        names = [f"{name}_{i}" for i, name in enumerate(names, 1)]
    return dict(zip(names, zip(parts, given, strict=True), strict=True))


def _source_name(data: str) -> str:
    path = Path(data).expanduser()
    name = path.stem if path.suffix and not path.is_dir() else path.absolute().name
    match = _TFDS_NAME.fullmatch(data)
    return match["name"] if match else name


def _open_one(data, split: str, data_dir, split_lists, names: Names) -> Examples:
    path = Path(data).expanduser()
    root = Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    if split_lists is not None and not path.is_dir():
        raise SourceError(
            "split lists go with a folder of images (a CSV file has its column "
            f"'split', a TFDS data set its own splits); {str(data)!r} is not a folder"
        )
    # A folder that happens to be called like a prepared data set can be meant
    # by `./name`.
    if split_lists is None and _is_prepared(str(data), root):
        return _open_tfds(str(data), split, root)
    if split_lists is None and (layout := importers.recognise(path, names)):
        logging.info("%s is read as %s.", path, layout.kind)
        return _open_rows(layout, split, names)
    if names.columns and not names.several:
        raise SourceError(f"--columns goes with a table; {str(data)!r} is not one")
    if path.is_dir():
        return _open_folder(path, split, split_lists)
    raise SourceError(
        f"found no data {str(data)!r}: expected a folder of UTKFace-named images, a "
        ".csv file, a data set that docs/data.md lists, or the name of one prepared "
        f"under {root} (to prepare one: python datasets/NAME/NAME_dataset_builder.py "
        "--data_dir=...)"
    )


def _open_folder(folder: Path, split: str, split_lists) -> Examples:
    with os.scandir(folder) as entries:
        found = sorted(
            e.name for e in entries if e.is_file() and not e.name.startswith(".")
        )
    files = {name: name for name in found}
    twice: list[Skipped] = []
    if not any(name.lower().endswith(IMAGE_SUFFIXES) for name in found):
        files, twice = _further_down(folder)
        found = sorted(files)
    corrections = None
    if split_lists is None:
        names = [n for n in found if split in (ALL, hash_split(n))]
        logging.info(
            "%s has no split lists and is split by the hash of the file names "
            "(80/10/10); near-identical images may fall into different splits.",
            folder,
        )
    else:
        names = _listed_names(folder, found, split, split_lists)
        if split == "train":
            corrections = read_corrections(split_lists)
    labels, skipped = label_names(names, corrections)
    return from_files(
        f"{split!r} of {folder}",
        folder,
        list(labels),
        list(labels.values()),
        [*skipped, *twice],
        [files[name] for name in labels],
    )


def _further_down(folder: Path) -> tuple[dict[str, str], list[Skipped]]:
    """Images that lie below folders, as in the archives that people unpack.

    The same name twice is one image: some archives hold a part of the faces again.

    Returns:
        Paths from `folder` by file name, and what is left out.
    """
    files: dict[str, str] = {}
    skipped: list[Skipped] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name != "__MACOSX" and name[0] != "."
        )
        for name in sorted(names):
            if not is_image(name):
                continue
            path = os.path.relpath(os.path.join(place, name), folder)
            if files.setdefault(name, path) != path:
                reason = f"the same name as {files[name]}"
                skipped.append(Skipped(path, reason))
    if not any(_is_labelled(name) for name in files):
        inside = listing(sorted(os.listdir(folder))) or "nothing"
        raise SourceError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) named "
            f"age_gender_race_timestamp.jpg directly in {folder}, or in folders in it; "
            f"found {inside}"
        )
    # UTKFace has its photographs, too, without the second ending of its crops.
    if any(_CROP in name for name in files):
        for name in [name for name in files if _CROP not in name]:
            reason = f"it is not a crop ({_CROP}), as others here are"
            skipped.append(Skipped(files.pop(name), reason))
    return files, skipped


def _is_labelled(name: str) -> bool:
    try:
        return bool(parse_name(name))
    except LabelError:
        return False


def _listed_names(folder: Path, found, split: str, split_lists) -> list[str]:
    lists = read_split_lists(split_lists)
    unlisted = sorted(set(found).difference(*lists.values()))
    if unlisted:
        logging.warning(
            "%d files in %s are in no split list and stay unused: %s",
            len(unlisted),
            folder,
            listing(unlisted),
        )
    names = []
    for part in SPLITS if split == ALL else (split,):
        chosen = listed_and_present(lists, part, found)
        if lists[part] and not chosen:
            message = (
                f"none of the {len(lists[part])} files in {part}.txt is in {folder}"
            )
            if split != ALL:
                raise NoExamplesError(
                    f"{message}; open another split, or bring them there"
                )
            logging.warning("The split is absent: %s.", message)
        names += chosen
    return names


def _open_rows(layout: importers.Layout, split: str, names: Names) -> Examples:
    rows: list[tuple[importers.Row, Labels]] = []
    parts: dict[str, int] = {}
    try:
        for row, found in importers.read_rows(layout, names):
            part = row.split or hash_split(row.id)
            parts[part] = parts.get(part, 0) + 1
            if split in (ALL, part):
                rows.append((row, found))
            unsplit = not row.split
    except importers.Problems as error:
        raise_problems(layout.path, error.rows)
    if parts and unsplit:
        logging.info(
            "%s names no splits and is split by the hash of the ids (80/10/10).",
            layout.path,
        )
    what = f"{split!r} of {layout.path}"
    ids = [row.id for row, _ in rows]
    labels = [found for _, found in rows]
    if rows and rows[0][0].read is not None:
        reads = [row.read for row, _ in rows if row.read is not None]
        return from_rows(what, ids, labels, lambda i: reads[i](), None, layout.skipped)
    return from_files(what, layout.folder, ids, labels, layout.skipped)


def _is_prepared(name: str, root: Path) -> bool:
    match = _TFDS_NAME.fullmatch(name)
    return match is not None and any(
        (root / match["name"]).glob("**/dataset_info.json")
    )


def _open_tfds(name: str, split: str, root: Path) -> Examples:
    # TFDS takes seconds to import; a folder or a CSV file does without it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=root, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        raise SourceError(
            f"{root} holds no version {name!r} of that data set: {error}"
        ) from error
    what = f"{split!r} of {builder.info.full_name} in {root}"
    parts = [p for p in SPLITS if p in builder.info.splits and split in (ALL, p)]
    if not parts:
        raise NoExamplesError(
            f"there is no split {split!r} in {builder.info.full_name}; it has "
            f"{', '.join(builder.info.splits)}"
        )
    _check_features(what, dict(builder.info.features.items()))
    names, rows, images = [], [], []
    for part in parts:
        # The encoded images stay in memory (UTKFace: 110 MB, less than its
        # pixels at 64 x 64). TFDS reads at random only from array_record,
        # which it offers on Linux alone.
        dataset = builder.as_dataset(
            split=part,
            decoders={"image": tfds.decode.SkipDecoding()},
            shuffle_files=False,
        )
        for number, example in enumerate(tfds.as_numpy(dataset)):
            default = f"{part}/{number}".encode()
            names.append(example.get("id", default).decode())
            rows.append({t.name: example.get(t.name, MISSING) for t in TASKS})
            images.append(example["image"])
    _check_labels(what, names, rows)
    skipped = _read_skipped(builder.data_path / SKIPPED_FILE, parts)
    return from_rows(what, names, rows, images.__getitem__, None, skipped)


def _check_features(what: str, features: Mapping) -> None:
    if "image" not in features or not any(task.name in features for task in TASKS):
        raise SourceError(
            f"expected a feature 'image' and one of "
            f"{', '.join(task.name for task in TASKS)} in {what}; found "
            f"{', '.join(features)}"
        )
    for task in TASKS:
        # Class indices mean nothing without the same classes in the same order.
        classes = tuple(getattr(features.get(task.name), "names", ()))
        if classes and classes != task.classes:
            raise SourceError(
                f"the classes of {task.name} in {what} are {classes}; expected "
                f"{task.classes}"
            )


def _check_labels(what: str, names: Sequence[str], rows: Sequence[Labels]) -> None:
    for task in TASKS:
        low, high = task.label_range
        values = np.array([row[task.name] for row in rows])
        # Not the opposite comparison, which lets NaN pass.
        wrong = ~((values == MISSING) | ((values >= low) & (values <= high)))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise SourceError(
                f"{task.name} must be from {low:g} to {high:g}, or {MISSING} where it "
                f"is missing; {wrong.sum()} examples of {what} have another, the first "
                f"is {names[first]!r} with {values[first]}"
            )


def write_skipped(folder: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Writes beside prepared records what their builder left out.

    Args:
        folder: of the prepared data set; any object with `/` and `write_text`.
        rows: split, id and reason of each.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_SKIPPED_COLUMNS)
    writer.writerows(rows)
    (folder / SKIPPED_FILE).write_text(table.getvalue())
    if rows:
        logging.warning(
            "%d images are left out; %s beside the records says which and why.",
            len(rows),
            SKIPPED_FILE,
        )


def _read_skipped(path: Path, parts: Sequence[str]) -> list[Skipped]:
    if not path.exists():
        return []
    return [
        Skipped(cells["id"], cells["reason"])
        for _, cells in read_table(path, _SKIPPED_COLUMNS)
        if cells["split"] in parts
    ]
