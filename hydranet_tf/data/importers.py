"""Tables and folders of other people, each turned into rows that say the same.

What a data set is, is told by its files' names and columns: FairFace, Adience,
APPA-REAL, IMDB-WIKI, Kaggle's table of pixels, the parquet files of Hugging Face, or
any table with a header. Nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from hydranet_tf import errors
from hydranet_tf.data import labels
from hydranet_tf.data.file_names import Labels, Skipped
from hydranet_tf.data.labels import Names
from hydranet_tf.io.tables import SourceError, listing, read_table
from hydranet_tf.tasks import TASKS, LabelError

TABLES = (".csv", ".tsv")
PATH, SPLIT, PIXELS = "path", "split", "pixels"

# What columns are called elsewhere, beside our own names.
_COLUMNS = {
    PATH: ("file", "filename", "file_name", "filepath", "file_path", "image",
           "image_path", "image_name", "img", "img_path", "img_name"),
    SPLIT: ("set", "subset", "partition"),
    "age": ("real_age", "age_range", "age_group"),
    "gender": ("sex",),
    "race": ("ethnicity",),
}  # fmt: skip
_FAIRFACE = "fairface_label_*.csv"
_ADIENCE = "fold_?_data.txt"
_ADIENCE_SPLITS = ("train", "train", "train", "validation", "test")
_APPA_REAL = "gt_avg_*.csv"
_APPA_REAL_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_MATLAB = ("imdb.mat", "wiki.mat")
# MATLAB counts days from the year 0, Python from the year 1.
_MATLAB_DAYS = 366


@dataclasses.dataclass(frozen=True)
class Row:
    """One example as a table has it.

    Attributes:
        where: the row, for messages.
        id: of the example; of a file its path from the folder of the source.
        cells: text by task; a task that is not there is missing.
        split: as written; blank for the hash of the id.
        read: gives the bytes of the image; None for a file.
    """

    where: str
    id: str
    cells: Mapping[str, str]
    split: str = ""
    read: Callable[[], bytes] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A source that was recognised.

    Attributes:
        kind: what it is, for messages.
        path: the file or folder, for messages.
        folder: where the images lie.
        rows: gives the rows and adds to `skipped` what is left out.
        skipped: complete once all rows are read.
    """

    kind: str
    path: Path
    folder: Path
    rows: Callable[[], Iterator[Row]]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)


def recognise(path: Path, names: Names) -> Layout | None:
    """What a file or folder holds, by its names; None for a folder of images.

    Args:
        path: of the file or folder.
        names: of columns; they go with a table.

    Raises:
        SourceError: on a column that is doubtful or not there.
    """
    if path.is_dir():
        return _folder(path, names)
    if path.suffix.lower() == ".parquet":
        return _parquet([path], path, names)
    if path.name in _MATLAB:
        return _matlab(path)
    if path.suffix.lower() in TABLES:
        if path.match(_APPA_REAL) and not names.columns:
            return _appa_real([path], path)
        return _tables([path], path, names)
    return None


def _folder(folder: Path, names: Names) -> Layout | None:
    for pattern, open_all in (
        (_FAIRFACE, lambda found: _tables(found, folder, names)),
        (_ADIENCE, lambda found: _adience(found, folder)),
        (_APPA_REAL, lambda found: _appa_real(found, folder)),
        ("*.parquet", lambda found: _parquet(found, folder, names)),
        ("data/*.parquet", lambda found: _parquet(found, folder, names)),
        ("age_gender.csv", lambda found: _tables(found, folder, names)),
    ):
        if found := sorted(folder.glob(pattern)):
            return open_all(found)
    for name in _MATLAB:
        if (folder / name).is_file():
            return _matlab(folder / name)
    return None


# --- any table, FairFace, Kaggle's pixels


def _tables(files: Sequence[Path], path: Path, names: Names) -> Layout:
    folder = files[0].parent

    def rows():
        for file in files:
            yield from _table_rows(file, names, several=len(files) > 1)

    fairface = all(file.match(_FAIRFACE) for file in files)
    return Layout("FairFace" if fairface else "table", path, folder, rows)


def _table_rows(file: Path, names: Names, several: bool) -> Iterator[Row]:
    columns = {}

    def check(header: list[str]) -> None:
        columns.update(_columns(file, header, names))

    for number, cells in read_table(file, (), delimiters=",;\t", check=check):
        where = f"{file.name}, row {number}" if several else f"row {number}"
        found = {task: cells[name] for task, name in columns.items()}
        pixels = found.pop(PIXELS, None)
        name = found.pop(PATH, "")
        split = found.pop(SPLIT, None)
        if split is None:
            split = _split_of(file, name)
        elif not split.strip():
            raise SourceError(f"{file}, {where}: the split is blank")
        if pixels is None:
            yield Row(where, name, found, split)
        else:
            # The names of UTKFace again, of which this table keeps the last part.
            parts = [found.get(task, "") for task in ("age", "gender", "race")]
            name = "_".join([*parts, name or f"{number}.jpg"])
            yield Row(where, name, found, split, functools.partial(_png, pixels, where))


def _split_of(file: Path, name: str) -> str:
    """FairFace's paths begin with their part, and so do the names of its files."""
    if not file.match(_FAIRFACE):
        return ""
    return name.split("/")[0]


def _png(pixels: str, where: str) -> bytes:
    from PIL import Image

    try:
        values = np.array(pixels.split(), np.uint8)
    except (ValueError, OverflowError) as error:
        raise OSError(f"{where}: the pixels are not numbers from 0 to 255") from error
    side = math.isqrt(len(values))
    if side * side != len(values):
        raise OSError(f"{where}: {len(values)} pixels are not a square")
    file = io.BytesIO()
    Image.fromarray(values.reshape(side, side)).save(file, "PNG")
    return file.getvalue()


def _columns(path: Path, header: list[str], names: Names) -> dict[str, str]:
    """The table's columns by our names."""
    simple = {name: name.strip().lower().replace(" ", "_") for name in header}
    ours = (PATH, SPLIT, *(task.name for task in TASKS))
    found = {}
    for name in ours:
        if name in names.columns:
            theirs = names.columns[name]
            if theirs in header:
                names.used.add(name)
                found[name] = theirs
                continue
            if not names.several:
                raise SourceError(
                    f"--columns: {path} has no column {theirs!r}; it has "
                    f"{', '.join(header)}"
                )
        exact = [column for column in header if simple[column] == name]
        other = [c for c in header if simple[c] in _COLUMNS.get(name, ())]
        candidates = exact or other
        if len(candidates) > 1:
            raise SourceError(
                f"{path} has the columns {', '.join(candidates)}, each of which may be "
                f"the {name}; say which by --columns={name}={candidates[0]}"
            )
        if candidates:
            found[name] = candidates[0]
    pixels = [column for column in header if simple[column] == PIXELS]
    if pixels and PATH not in names.columns:
        found[PIXELS] = pixels[0]
    _check_columns(path, header, found, ours)
    return found


def _check_columns(path: Path, header: list[str], found, ours) -> None:
    labelled = [task.name for task in TASKS if task.name in found]
    if not labelled or (PATH not in found and PIXELS not in found):
        lacking = [name for name in ours if name not in found and name != SPLIT]
        raise SourceError(
            f"{path} lacks the columns {', '.join(lacking)}: expected a first line "
            f"with {PATH} and labels ({', '.join(task.name for task in TASKS)}); found "
            f"{header}. Say what they are called by --columns={lacking[0]}=..."
        )
    for column in set(header) - set(found.values()):
        absent = [name for name in ours if name not in found]
        if name := labels.meant(column, absent):
            raise SourceError(
                f"{path} has no column {name!r} and one {column!r}, which may be "
                f"meant; rename it, or say --columns={name}={column}"
            )
    absent = [task.name for task in TASKS if task.name not in found]
    if absent:
        logging.warning(
            "%s has no column %s: its faces have no such label.",
            path,
            ", ".join(absent),
        )


# --- Adience


def _adience(files: Sequence[Path], folder: Path) -> Layout:
    aligned = folder / "aligned"
    where = "aligned" if aligned.is_dir() else "faces"
    prefix = "landmark_aligned_face" if aligned.is_dir() else "coarse_tilt_aligned_face"

    def rows():
        columns = ("user_id", "original_image", "face_id", "age", "gender")
        for file in files:
            number = int(re.search(r"\d", file.name)[0])
            for row, cells in read_table(file, columns, delimiters="\t"):
                image = f"{prefix}.{cells['face_id']}.{cells['original_image']}"
                found = {"age": cells["age"], "gender": cells["gender"]}
                if found["gender"].strip().lower() == "u":
                    found["gender"] = ""
                yield Row(
                    f"{file.name}, row {row}",
                    f"{where}/{cells['user_id']}/{image}",
                    found,
                    _ADIENCE_SPLITS[number] if number < 5 else "train",
                )

    return Layout("Adience", folder, folder, rows)


# --- APPA-REAL


def _appa_real(files: Sequence[Path], path: Path) -> Layout:
    folder = files[0].parent

    def rows():
        for file in files:
            part = file.stem.removeprefix("gt_avg_")
            for row, cells in read_table(file, ("file_name", "real_age")):
                name = f"{part}/{cells['file_name']}"
                # The authors' own crops of the faces, where they are there.
                if (folder / f"{name}_face.jpg").is_file():
                    name = f"{name}_face.jpg"
                yield Row(
                    f"{file.name}, row {row}",
                    name,
                    {"age": cells["real_age"]},
                    _APPA_REAL_SPLITS.get(part, part),
                )

    return Layout("APPA-REAL", path, folder, rows)


# --- IMDB-WIKI


def _matlab(path: Path) -> Layout:
    skipped: list[Skipped] = []

    def rows():
        try:
            import scipy.io
        except ImportError as error:
            raise SourceError(
                f"{path} is read by scipy, which is not installed: "
                f"{errors.installation('readers')}"
            ) from error
        try:
            table = scipy.io.loadmat(path, simplify_cells=True)[path.stem]
            columns = [
                np.atleast_1d(table[name]).tolist()
                for name in ("full_path", "dob", "photo_taken", "gender", "face_score",
                             "second_face_score")
            ]  # fmt: skip
        except (KeyError, NotImplementedError, OSError, TypeError, ValueError) as error:
            raise SourceError(
                f"{path} is not a table of IMDB-WIKI: {error!r}; fetch it again"
            ) from error
        for number, (name, born, taken, gender, score, second) in enumerate(
            zip(*columns, strict=True), 1
        ):
            reason = _left_out(score, second)
            age = None if reason else _age(born, taken)
            if not reason and not (age is not None and 0 <= age <= 120):
                reason = f"born on day {born}, photographed in {taken}: no age"
            if reason:
                skipped.append(Skipped(str(name), reason))
                continue
            # 1 is male there and 0 female; NaN where it is not known.
            cell = {1.0: "male", 0.0: "female"}.get(float(gender), "")
            yield Row(f"entry {number}", str(name), {"age": str(age), "gender": cell})

    return Layout("IMDB-WIKI", path, path.parent, rows, skipped)


def _left_out(score: float, second: float) -> str:
    if not math.isfinite(score):
        return "no face was found in it (face_score)"
    if math.isfinite(second):
        return "a second face was found in it (second_face_score)"
    return ""


def _age(born: float, taken: float) -> int | None:
    """Whole years at the middle of the year in which a photograph was taken."""
    try:
        day = datetime.date.fromordinal(int(born) - _MATLAB_DAYS)
    except (ValueError, OverflowError):
        return None
    return int(taken) - day.year - (day.month >= 7)


# --- Hugging Face


def _parquet(files: Sequence[Path], path: Path, names: Names) -> Layout:
    def rows():
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise SourceError(
                f"{path} is read by pyarrow, which is not installed: "
                f"{errors.installation('readers')}"
            ) from error
        for file in files:
            try:
                table = pyarrow.parquet.read_table(file)
            except (pyarrow.ArrowException, OSError) as error:
                raise SourceError(f"cannot read {file}: {error}") from error
            yield from _parquet_rows(file, table, names)

    return Layout("Hugging Face", path, path if path.is_dir() else path.parent, rows)


def _parquet_rows(file: Path, table, names: Names) -> Iterator[Row]:
    columns = _columns(file, table.column_names, names)
    classes = _class_names(table.schema.metadata or {})
    image = columns.pop(PATH)
    images = table.column(image).to_pylist()
    if not images or not isinstance(images[0], dict) or not images[0].get("bytes"):
        raise SourceError(
            f"expected images in the column {image!r} of {file}, as datasets of "
            "Hugging Face keep them; name the column by --columns=path=..."
        )
    cells = {name: table.column(theirs).to_pylist() for name, theirs in columns.items()}
    part = re.match(r"(train|validation|valid|val|test)\b", file.stem.lower())
    for number, picture in enumerate(images):
        found = {
            name: _text(values[number], classes.get(columns[name]))
            for name, values in cells.items()
        }
        split = found.pop(SPLIT, part[1] if part else "")
        yield Row(
            f"{file.name}, row {number}",
            # Not the path in the table, which need not be unique.
            f"{file.stem}/{number}",
            found,
            split,
            functools.partial(bytes, picture["bytes"]),
        )


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the classes of each column that counts them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("names")
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _text(value, classes: list[str] | None) -> str:
    if value is None:
        return ""
    if classes and isinstance(value, int):
        if value < 0:
            return ""
        return classes[value] if value < len(classes) else str(value)
    return str(value)


# --- rows to labels


def read_rows(
    layout: Layout, names: Names
) -> Iterator[tuple[Row, dict[str, float | int]]]:
    """Each row with its labels; those that cannot be read raise one error together.

    Raises:
        LabelError: one for each row that is wrong; `rows` of it holds them.
    """
    problems: list[str] = []
    seen: dict[str, str] = {}
    found: list[tuple[Row, Labels]] = []
    for row in layout.rows():
        wrong = _missing_file(layout, row)
        read: Labels = {}
        for task in TASKS:
            try:
                read |= labels.read(
                    task, row.cells.get(task.name, ""), names.classes.get(task.name)
                )
            except LabelError as error:
                wrong.append(str(error))
        if seen.setdefault(row.id, row.where) != row.where:
            wrong.append(f"{row.id!r} stands in {seen[row.id]} already")
        split = row.split
        if split:
            try:
                split = labels.read_split(split)
            except LabelError as error:
                wrong.append(str(error))
        if wrong:
            problems.append(f"{row.where}: {'; '.join(wrong)}")
        else:
            found.append((dataclasses.replace(row, split=split), read))
    if problems:
        raise Problems(problems)
    yield from found


class Problems(LabelError):
    """Rows that are wrong; `rows` says which and why."""

    def __init__(self, rows: list[str]):
        super().__init__(listing(rows))
        self.rows = rows


def _missing_file(layout: Layout, row: Row) -> list[str]:
    if row.read is not None:
        return []
    if not row.id.strip():
        return ["the path is blank"]
    # Not Path.is_file, which raises on a path that is too long.
    if not os.path.isfile(layout.folder / row.id):
        return [
            f"there is no file {row.id!r} (paths start at the folder of the "
            f"{'CSV file' if layout.kind == 'table' else 'data set'})"
        ]
    return []
