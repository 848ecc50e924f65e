"""Pictures in, faces with predictions out.

    from hydranet_tf.inference.predictor import Predictor

    predictor = Predictor("exports/faces/hydranet.tflite")
    for face in predictor("party.jpg"):
        print(face.box, face.age, face.gender, face.probabilities["gender"])
    predictor(["party.jpg", "portrait.heic"]).to_frame()

The predictions estimate what annotators saw in pictures. They are not facts about a
person.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from hydranet_tf import tasks
from hydranet_tf.data import crops, decoding, detection, reading
from hydranet_tf.data.formats import PictureError as PictureError
from hydranet_tf.data.reading import Picture
from hydranet_tf.inference import runtimes, table
from hydranet_tf.tasks import Task

if TYPE_CHECKING:
    import pandas

# Of a list: read at the same time, and kept as crops until they are predicted.
_READERS, _PICTURES = 4, 32


@dataclasses.dataclass(frozen=True)
class Face:
    """One face and what the network says about it, in plain Python types.

    Attributes:
        box: left, top, right, bottom in pixels of the upright picture; None
            where the picture was taken as a face and nothing was searched.
        detection_score: None also where the detector gives none.
        predictions: by the names of `task.outputs`: of a regression its values in the
            task's unit, of a classification the name of the likeliest class.
        probabilities: by task and class name.
        landmarks: x and y of the eyes, or of the five points of
            `detection.LANDMARKS`, in pixels of the upright picture; None where the
            detector gives none.
        crop: what the network saw, uint8 `[size, size, 3]`; where asked for.
        embedding: what the heads read, float32 `[features]`, not normalised; where
            asked for.
    """

    box: tuple[int, int, int, int] | None
    detection_score: float | None
    predictions: dict[str, Any] = dataclasses.field(default_factory=dict)
    probabilities: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    landmarks: tuple[tuple[float, float], ...] | None = None
    # Arrays: a comparison of them is not one yes or no.
    crop: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    embedding: np.ndarray | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def age(self) -> float | None:
        """Years; None where the model does not say."""
        return self.predictions.get("age")

    @property
    def age_low(self) -> float | None:
        """With `age_high`, an interval that holds 80 % of the age's probability.

        None where the head gives a value alone.
        """
        return self.predictions.get("age_low")

    @property
    def age_high(self) -> float | None:
        """See `age_low`."""
        return self.predictions.get("age_high")

    @property
    def gender(self) -> str | None:
        """The likelier class; None where the model does not say."""
        return self.predictions.get("gender")

    @property
    def race(self) -> str | None:
        """The likeliest class; None where the model does not say."""
        return self.predictions.get("race")


class Faces(list[Face]):
    """The faces of one picture, the largest first.

    Attributes:
        picture: what was asked about, where that is a path.
        damage: why the picture was read in part; None for a whole one.
    """

    def __init__(
        self,
        faces: Iterable[Face] = (),
        picture: str | os.PathLike | None = None,
        damage: str | None = None,
    ):
        super().__init__(faces)
        self.picture = picture
        self.damage = damage

    def to_frame(self) -> pandas.DataFrame:
        """A row a face, in the columns of `predict.py`; needs pandas."""
        return table.to_frame([self])


class FacesOfPictures(list[Faces]):
    """The faces of several pictures, in their order."""

    def to_frame(self) -> pandas.DataFrame:
        """A row a face, and one for a picture without; needs pandas."""
        return table.to_frame(self)


@dataclasses.dataclass(frozen=True)
class Found:
    """The faces of one picture, cropped and not yet predicted.

    Attributes:
        detections: largest face first; None for one that was not searched.
        crops: uint8 `[faces, size, size, 3]`.
        damage: why the picture was read in part; None for a whole one.
    """

    detections: tuple[detection.Detection | None, ...]
    crops: np.ndarray
    damage: str | None = None


class Predictor:
    """Finds, crops and predicts; one object may serve many threads."""

    def __init__(
        self,
        model: str | os.PathLike | runtimes.Runtime | None = None,
        detector: detection.Detector | None = detection.find_faces,
        *,
        engine: str = runtimes.AUTO,
    ):
        """Loads the model.

        Args:
            model: a workdir, a preset, a SavedModel, a .tflite file, the name of a
                network that comes with the package, or what `runtimes.load` or
                `runtimes.from_model` made. None is the released network.
            detector: see `detection.Detector`. None: every picture is a face
                already, cut as training faces are; its centred square is
                taken.
            engine: what runs a file; see `runtimes.load`.

        Raises:
            runtimes.LoadError: if the path holds no whole model, or the model predicts
                something that is not in `TASKS`.
        """
        # Where to load it from in another process, whatever folder that works in.
        self._source: tuple[Any, ...] | None = None
        if not isinstance(model, runtimes.Runtime):
            if model is not None and os.path.exists(model):
                model = os.path.abspath(model)
            self._source = (model, engine)
            model = runtimes.load(model, engine)
        foreign = tasks.foreign(model.tasks)
        if foreign:
            raise runtimes.LoadError(
                "expected a model that predicts "
                f"{', '.join(task.name for task in tasks.TASKS)} with the classes of "
                f"this version; this one has its own {', '.join(foreign)}: run it with "
                "the version that made it, or with runtimes.load"
            )
        self.runtime = model
        self.detector = detector

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, which is loaded again: for processes of workers.

        Raises:
            TypeError: if there is no path to load it from.
        """
        if self._source is None:
            raise TypeError(
                "expected a Predictor of a path, which another process can load; this "
                "one was made of a model in memory"
            )
        return {k: v for k, v in self.__dict__.items() if k != "runtime"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.runtime = runtimes.load(*(self._source or ()))

    # A str is a sequence of str, too: the first wins.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, picture: Picture, *, crops: bool = False, embeddings: bool = False
    ) -> Faces: ...

    @overload
    def __call__(
        self,
        picture: Sequence[Picture],
        *,
        crops: bool = False,
        embeddings: bool = False,
    ) -> FacesOfPictures: ...

    def __call__(self, picture, *, crops=False, embeddings=False):
        """All faces of one picture, the largest first; or of several pictures.

        Args:
            picture: a path, the bytes of a file, a file object, an image of Pillow, or
                uint8 RGB, RGBA or grey: see `reading.read`. A list or a tuple holds
                several, of which a few at a time are kept in memory.
            crops: whether each face keeps what the network saw of it.
            embeddings: whether each face keeps what the heads read of it; not of
                SavedModels and .onnx files.

        Raises:
            PictureError: if one cannot be read.
            detection.DetectionError: if the detector fails.
            ValueError: if the model gives no embeddings.
        """
        if not isinstance(picture, (list, tuple)):
            return self._predict([picture], crops, embeddings)[0]
        found = FacesOfPictures()
        for start in range(0, len(picture), _PICTURES):
            some = picture[start : start + _PICTURES]
            found += self._predict(some, crops, embeddings, start)
        return found

    def _predict(
        self,
        pictures: Sequence[Picture],
        crops: bool,
        embeddings: bool,
        start: int | None = None,
    ) -> list[Faces]:
        def find(number: int) -> Found:
            try:
                return self.find(pictures[number])
            except PictureError as error:
                if start is None:
                    raise
                raise PictureError(f"picture {start + number}: {error}") from error

        if len(pictures) == 1:
            found = [find(0)]
        else:
            with ThreadPoolExecutor(_READERS) as pool:
                found = list(pool.map(find, range(len(pictures))))
        results = []
        for picture, one, faces in zip(
            pictures, found, self.predict(found), strict=True
        ):
            nothing = [None] * len(faces)
            kept = one.crops if crops else nothing
            described = self.runtime.features(one.crops) if embeddings else nothing
            faces = [
                dataclasses.replace(face, crop=crop, embedding=embedding)
                for face, crop, embedding in zip(faces, kept, described, strict=True)
            ]
            path = picture if isinstance(picture, (str, os.PathLike)) else None
            results.append(Faces(faces, path, one.damage))
        return results

    def find(self, picture: Picture) -> Found:
        """Finds the faces of one picture and crops them."""
        return find(picture, self.runtime.image_size, self.detector)

    def predict(self, found: Sequence[Found]) -> list[list[Face]]:
        """Predictions for all faces of several pictures at once."""
        if not found:
            return []
        cropped = np.concatenate([one.crops for one in found])
        predictions = self.runtime.predictions(cropped)
        rows = iter(range(len(cropped)))
        return [
            [
                _face(face, self.runtime.tasks, predictions, next(rows))
                for face in one.detections
            ]
            for one in found
        ]


def find(picture: Picture, size: int, detector: detection.Detector | None) -> Found:
    """Finds the faces of one picture and crops them.

    Args:
        picture: see `Predictor`.
        size: side of the crops in pixels.
        detector: None takes the centred square of the picture.

    Raises:
        PictureError: if it cannot be read.
        detection.DetectionError: if the detector fails.
    """
    image, damage = reading.read(picture)
    if detector is None:
        face = decoding.resize(decoding.square(image), size)
        return Found((None,), face[np.newaxis], damage)
    found = _detect(detector, image)
    cropped = [crops.crop(image, crops.locate(face), size) for face in found]
    empty = np.zeros((0, size, size, 3), np.uint8)
    return Found(tuple(found), np.stack(cropped) if cropped else empty, damage)


def _detect(
    detector: detection.Detector, image: np.ndarray
) -> list[detection.Detection]:
    try:
        found = list(detector(image))
    except detection.DetectionError:
        raise
    except Exception as error:  # A user's detector may raise anything.
        raise detection.DetectionError(
            f"the detector failed on a picture of {image.shape[1]} x "
            f"{image.shape[0]} pixels: {type(error).__name__}: {error}"
        ) from error
    wrong = [one for one in found if not isinstance(one, detection.Detection)]
    if wrong:
        raise detection.DetectionError(
            "expected from the detector a list of detection.Detection; it has "
            f"{type(wrong[0]).__name__}"
        )
    return sorted(found, key=_area, reverse=True)


def _area(face: detection.Detection) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def _face(
    found: detection.Detection | None,
    tasks: Sequence[Task],
    predictions: dict[str, np.ndarray],
    row: int,
) -> Face:
    values: dict[str, Any] = {}
    probabilities: dict[str, dict[str, float]] = {}
    for task in tasks:
        prediction = predictions[task.name][row]
        if task.is_regression:
            values |= {name: float(predictions[name][row]) for name in task.outputs}
        else:
            values[task.name] = task.classes[int(prediction.argmax())]
            probabilities[task.name] = dict(
                zip(task.classes, prediction.tolist(), strict=True)
            )
    if found is None:
        return Face(None, None, values, probabilities)
    score = None if found.score is None else float(found.score)
    left, top, right, bottom = (round(float(end)) for end in found.box)
    landmarks = found.landmarks and tuple(
        (float(x), float(y)) for x, y in found.landmarks
    )
    box = (left, top, right, bottom)
    return Face(box, score, values, probabilities, landmarks)
