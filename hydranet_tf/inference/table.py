"""Faces as rows of a table: the columns, the statuses, and a frame of pandas."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydranet_tf.tasks import TASKS

if TYPE_CHECKING:
    import pandas

    from hydranet_tf.inference.predictor import Face, Faces

PLACE = ("left", "top", "right", "bottom")


TASK_COLUMNS: tuple[str, ...] = tuple(
    column for task in TASKS for column in task.columns
)
# Of pictures.
COLUMNS: tuple[str, ...] = (
    "file", "face", *PLACE, "detection_score", *TASK_COLUMNS, "status"
)  # fmt: skip

OK, NO_FACE = "ok", "no_face"
# Followed by a colon and the reason. The other two may have one, too, where a picture
# was read in part.
UNREADABLE, FAILED = "unreadable", "failed"


def name_of(file: str) -> str:
    """The name of a picture in the rows: its path.

    Bytes of it that are not UTF-8 stand as `\\xff`: one such name must not spoil a
    table for all who read it.
    """
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def row(
    file: str, status: str, columns: Sequence[str] = COLUMNS, **values: Any
) -> dict[str, Any]:
    """One row, blank where nothing is given."""
    return {
        **dict.fromkeys(columns), "file": name_of(file), **values, "status": status
    }  # fmt: skip


def rows_of(
    file: str, faces: Sequence[Face] | str, damage: str | None = None
) -> list[dict[str, Any]]:
    """The rows of a picture: one a face; one that says why there is none.

    Args:
        file: its name.
        faces: or the status that tells why there are none.
        damage: why it was read in part.
    """
    if isinstance(faces, str):
        return [row(file, " ".join(faces.split()))]
    reason = f": {' '.join(damage.split())}" if damage else ""
    if not faces:
        return [row(file, f"{NO_FACE}{reason}")]
    return [
        row(file, f"{OK}{reason}", face=number, **values_of(face))
        for number, face in enumerate(faces)
    ]


def to_frame(pictures: Sequence[Faces]) -> pandas.DataFrame:
    """The rows of several pictures as `predict.py` writes them.

    Raises:
        ImportError: if pandas is not installed; nothing else here needs it.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_frame() needs pandas: pip install pandas", name="pandas"
        ) from error
    rows = [
        one
        for number, faces in enumerate(pictures)
        for one in rows_of(_named(faces.picture, number), faces, faces.damage)
    ]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    texts = {"file", "status", *(task.name for task in TASKS if task.classes)}
    numbers = [name for name in COLUMNS if name not in texts]
    # Blank cells would make objects of them.
    frame[numbers] = frame[numbers].apply(pandas.to_numeric)
    return frame


def _named(picture: Any, number: int) -> str:
    """A path by itself, a picture without a name by its place in the list."""
    if isinstance(picture, (str, os.PathLike)):
        name = os.fspath(picture)
        if not name.startswith("data:"):
            return name
    return str(number)


def values_of(face: Face) -> dict[str, Any]:
    """The cells of a face: its place, score and predictions, rounded."""

    def rounded(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    values: dict[str, Any] = {"detection_score": rounded(face.detection_score, 4)}
    for name, prediction in face.predictions.items():
        values[name] = (
            prediction if isinstance(prediction, str) else rounded(prediction, 2)
        )
    if face.box:
        values |= dict(zip(PLACE, face.box, strict=True))
    for task, found in face.probabilities.items():
        values |= {f"p_{task}_{name}": rounded(p, 6) for name, p in found.items()}
    return values
