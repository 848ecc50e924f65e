"""From a model and a split to a report.

`evaluate_model` does all of it for a path; `findings.find` and `write` are its
two halves for predictions that are already in memory.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from hydranet_tf import checkpoints
from hydranet_tf.data import pipeline, sources
from hydranet_tf.evaluation import (
    plots,
    projector_files,
    report,
    report_html,
    report_text,
    scores,
    sensitivity,
    subgroups,
)
from hydranet_tf.evaluation.findings import (
    EvaluationError,
    Findings,
    find,
    groups_json,
    subset_masks,
    subset_scores,
    task_json,
)
from hydranet_tf.inference import photograph_faces, predictor, runtimes
from hydranet_tf.tasks import TASKS, Task, foreign
from hydranet_tf.training.workdir import settings_of, trained_on

SCHEMA_VERSION = 1

# Above this many bytes of decoded images they are decoded twice, rather than
# kept between the check and the prediction.
_MAX_CACHE = 2**30

_CROP_PICTURE = "crop_sensitivity.png"
_CAPTURE_PICTURE = "capture_sensitivity.png"


def evaluate_model(
    model_path: str | os.PathLike,
    data: str,
    split: str,
    output: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    split_lists: str | os.PathLike | None = None,
    columns: str | None = None,
    classes: str | None = None,
    batch_size: int = 64,
    max_bad_images: int = 10,
    seed: int = 0,
    fit_temperatures: bool = False,
    crop_faces: bool = False,
    show_faces: bool = False,
    projector: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Evaluates a model on a split and writes the report.

    Args:
        model_path: a workdir, a SavedModel, a preset or a .tflite file.
        data: see `sources.open_source`, as the next but `output`.
        split: its part.
        output: folder of the report; an earlier report there is replaced.
        data_dir: of TensorFlow Datasets.
        split_lists: folder of the lists.
        columns: of a table.
        classes: of a table.
        batch_size: images that are predicted at once.
        max_bad_images: how many may be left out, listed with a reason.
        seed: of the bootstrap intervals.
        fit_temperatures: first fits a temperature for each head on these examples, as
            they are and under changes of capture, and keeps them in the workdir, for
            this checkpoint; everything that is loaded or exported from it has them from
            then on.
        crop_faces: the data are photographs: the largest face of each is found and
            cropped first, as `Predictor` does it; those without are counted.
        show_faces: report.html shows the worst examples' pictures, not only their
            names, and the projector each point's; for those who may show them.
        projector: folder for TensorBoard's embedding projector, see
            `projector_files`; None makes none.

    Returns:
        The content of `report.json`.

    Raises:
        runtimes.LoadError, checkpoints.CheckpointError: if the path holds
            no whole model.
        sources.SourceError: if the data cannot be read.
        pipeline.BadImagesError: if too many images cannot be decoded.
        report.ReportError: if the folder cannot be written.
        EvaluationError: if the model's predictions do not fit the labels.
    """
    output = report.prepare(output)
    features = None
    if projector:
        projector = report.prepare(projector, "--projector")
        features = projector_files.features_of(Path(model_path).expanduser())
    loaded = runtimes.load(model_path)
    _check_tasks(loaded.tasks)
    opened = sources.open_source(
        data,
        split,
        data_dir=data_dir,
        split_lists=split_lists,
        columns=columns,
        classes=classes,
    )
    found_in = None
    if crop_faces:
        found_in = photograph_faces.search(opened, predictor.Predictor(loaded).find)
        opened = found_in.examples
        if not len(opened):
            raise EvaluationError(
                f"no face was found in any of the {found_in.pictures} pictures of "
                f"{data}; are they photographs? Faces that are cropped already are "
                "evaluated without --crop_faces"
            )
    needed = len(opened) * loaded.image_size**2 * 3
    cache = pipeline.MEMORY_CACHE if needed <= _MAX_CACHE else pipeline.NO_CACHE
    faces = pipeline.load_faces(opened, loaded.image_size, cache, max_bad_images)
    if fit_temperatures:
        _fit_temperatures(Path(model_path).expanduser(), faces, batch_size)
        loaded = runtimes.load(model_path)
    findings = find(
        loaded.tasks,
        faces.examples.ids,
        faces.examples.labels,
        predict(loaded, faces, batch_size),
        seed,
    )
    about = {
        "model": {
            "path": str(model_path),
            "image_size": loaded.image_size,
            **report.about_model(Path(model_path).expanduser(), loaded.tasks),
        },
        "data": {
            "source": str(data),
            "split": split,
            "digest": opened.digest(),
            "examples": len(faces),
            "skipped": [dataclasses.asdict(s) for s in opened.skipped],
            "bad_images": [dataclasses.asdict(s) for s in faces.bad],
            "faces": found_in and found_in.to_json(),
            "trained_on": _trained_on(model_path, faces.examples, data, split),
        },
    }
    if features is not None:
        projector_files.write(features, findings, faces, projector, show_faces, seed)
    masks = subset_masks(findings.ids, findings.labels, split_lists)
    shown = {}
    if show_faces:
        worst = report.worst_examples(findings)
        shown = report.thumbnails(faces.examples, worst)
    return write(
        findings,
        about,
        output,
        seed,
        crop=sensitivity.of_crops(loaded, faces.examples, seed),
        capture=sensitivity.of_captures(loaded, faces.examples, seed),
        masks=masks,
        thumbnails=shown,
    )


def evaluate_sources(
    model_path: str | os.PathLike,
    data: str | None,
    split: str,
    output: str | os.PathLike,
    *,
    split_lists: str | os.PathLike | None = None,
    fit_temperatures: bool = False,
    projector: str | os.PathLike | None = None,
    **options,
) -> dict[str, dict[str, Any]]:
    """Evaluates each of several sources by itself, a report for each.

    A source that lacks the split gets none. What is one number over all of them says
    how the sources were mixed, rather than how good the model is.

    Args:
        model_path: see `evaluate_model`.
        data: several sources, or one; see `sources.open_source`. None takes what the
            run in a workdir was trained on, divided as it was then; what else is given
            of `data_dir`, `split_lists`, `columns`, `classes` and `crop_faces` replaces
            that part of the run's settings.
        split: see `evaluate_model`.
        output: each report goes into the folder by the source's name in it; that of
            one source goes into `output` itself.
        split_lists: one for each source; see `sources.open_source`.
        fit_temperatures: for one source alone.
        projector: for one source alone.
        **options: see `evaluate_model`.

    Returns:
        What `evaluate_model` returns, by the source's name.

    Raises:
        EvaluationError: as `evaluate_model` does, with the other errors named there;
            and if several sources are to fit temperatures or fill a projector.
    """
    if data is None:
        data, split_lists, options = _own_data(model_path, split_lists, options)
    named = sources.listed(data, split_lists)
    if len(named) == 1:
        ((name, (part, lists)),) = named.items()
        options |= {"fit_temperatures": fit_temperatures, "projector": projector}
        found = evaluate_model(
            model_path, part, split, output, split_lists=lists, **options
        )
        return {name: found}
    if fit_temperatures or projector:
        raise EvaluationError(
            "--fit_temperatures and --projector go with one source; got "
            f"{', '.join(named)}. "
            "Evaluate that one by itself"
        )
    found = {}
    for name, (part, lists) in named.items():
        try:
            found[name] = evaluate_model(
                model_path,
                part,
                split,
                Path(output) / name,
                split_lists=lists,
                **options,
            )
        except sources.NoExamplesError as error:
            missing = error
            logging.warning("%s gets no report: %s", name, error)
    if not found:
        raise missing
    return found


def _own_data(model_path, split_lists, options: Mapping[str, Any]):
    """The data, split lists and options of the run in a workdir, see above."""
    config = settings_of(Path(model_path).expanduser())
    if config is None:
        raise EvaluationError(
            f"{model_path} is not a workdir of train.py, so it has no data of its own: "
            "give --data"
        )
    own: dict[str, Any] = {**config.places(), "crop_faces": config.crop_faces}
    lists = own.pop("split_lists")
    given = {name: value for name, value in options.items() if value}
    return config.data, split_lists or lists, {**options, **own, **given}


def _trained_on(model_path, examples: sources.Examples, data, split) -> int | None:
    """How many of the examples a workdir's run was trained on; None: not known."""
    (name,) = sources.listed(data)
    found = trained_on(Path(model_path).expanduser(), examples, name)
    if found is None:
        return None
    if found.any() and split != "train":
        logging.warning(
            "%s was trained on %d of these %d examples, so the scores are not those of "
            "unseen faces. Were the data divided in another way then (--split_lists)?",
            model_path,
            found.sum(),
            len(found),
        )
    return int(found.sum())


def _fit_temperatures(workdir: Path, faces: pipeline.Faces, batch_size: int) -> None:
    if not (workdir / "checkpoints").is_dir():
        raise EvaluationError(
            "--fit_temperatures keeps what it fits in a workdir of train.py, and "
            f"{workdir} is not one; calibrate the workdir, then export it"
        )
    model = checkpoints.load_model(workdir)
    logits = _logits_for_temperatures(model.logits_model(), faces, batch_size)
    labels = {name: np.tile(v, 2) for name, v in faces.examples.labels.items()}
    found = scores.fit_temperatures(model.tasks, logits, labels)
    folder, _ = checkpoints.newest(workdir)
    checkpoints.keep_temperatures(workdir, folder.name, found)


def _logits_for_temperatures(
    network, faces: pipeline.Faces, batch_size: int
) -> dict[str, np.ndarray]:
    """Logits of all faces as they are, and then of each under one change of capture.

    Photographs are sharper, softer and noisier than faces that a network was trained
    on. Intervals fitted to those alone are too narrow for the others.
    """
    batches = pipeline.evaluation_batches(faces, batch_size)
    parts = [network.predict(batches, verbose=0)]
    starts = range(0, len(faces), batch_size)
    for start in tqdm(starts, desc="capture changes", unit="batch", disable=None):
        images = [
            sensitivity.changed_in_turn(faces.examples, row, faces.image_size)
            for row in range(start, min(start + batch_size, len(faces)))
        ]
        parts.append(network.predict_on_batch(np.stack(images)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def summary(content: Mapping[str, Any], output: str | os.PathLike) -> str:
    """What a terminal shows: the headline, the worst groups, the paths."""
    worst = [
        f"worst group by {key.replace('.', ' ')}: {row['group'] or row['status']}"
        for key, row in content["groups"]["worst"].items()
    ]
    # What is read first stands last, just above the prompt.
    files = sorted(content["files"], key=lambda name: name == report.REPORT_MD)
    paths = [str(Path(output) / name) for name in files]
    capture = report_text.capture_sentences(content)
    return "\n".join([report_text.headline(content), "", *worst, *capture, "", *paths])


def summaries(found: Mapping[str, Mapping[str, Any]], output: str | os.PathLike) -> str:
    """The same of what `evaluate_sources` returned, source after source."""
    if len(found) == 1 and not (Path(output) / next(iter(found))).is_dir():
        return summary(*found.values(), output)
    parts = [
        f"{name}:\n{summary(content, Path(output) / name)}"
        for name, content in found.items()
    ]
    return "\n\n".join(parts)


def predict(
    loaded: runtimes.Runtime, faces: pipeline.Faces, batch_size: int
) -> dict[str, np.ndarray]:
    """Predictions for all faces, in their order, under a progress bar."""
    parts = []
    with tqdm(total=len(faces), desc="predicting", unit="img", disable=None) as bar:
        batches = pipeline.evaluation_batches(faces, batch_size)
        for images, _ in batches.as_numpy_iterator():
            parts.append(loaded.predictions(images))
            bar.update(len(images))
    if not parts:
        raise EvaluationError(
            "expected examples to evaluate; there are none. Look at --data and --split"
        )
    return {
        name: np.concatenate([part[name] for part in parts])
        for task in loaded.tasks
        for name in task.outputs
    }


def write(
    findings: Findings,
    about: Mapping[str, Any],
    output: Path,
    seed: int = 0,
    crop: Mapping[str, Any] | None = None,
    capture: Mapping[str, Any] | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
    thumbnails: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Writes report.json, report.md, report.html, predictions.csv and the pictures.

    Args:
        findings: from `find`.
        about: the parts `model` and `data` of the report.
        output: an existing folder.
        seed: that `find` was given.
        crop: from `sensitivity.of_crops`; None where only predictions are known.
        capture: from `sensitivity.of_captures`; None there, too.
        masks: from `findings.subset_masks`.
        thumbnails: from `report.thumbnails`, for report.html alone.

    Returns:
        The content of `report.json`.
    """
    with report.replacing(output) as folder:
        pictures = _draw(findings, folder)
        if crop and plots.crop_sensitivity(crop, folder / _CROP_PICTURE):
            pictures["margin_sensitivity"] = _CROP_PICTURE
        if capture and plots.capture_sensitivity(capture, folder / _CAPTURE_PICTURE):
            pictures["capture_sensitivity"] = _CAPTURE_PICTURE
        report.write_predictions(
            findings.tasks,
            findings.ids,
            findings.labels,
            findings.predictions,
            folder,
            findings.half_widths,
        )
        names = {path.name for path in folder.iterdir()}
        content = {
            "schema_version": SCHEMA_VERSION,
            "about_labels": report_text.ABOUT_LABELS,
            "created": datetime.datetime.now(datetime.UTC).isoformat(
                timespec="seconds"
            ),
            **about,
            "settings": {
                "seed": seed,
                "resamples": scores.RESAMPLES,
                "level": scores.LEVEL,
                "tolerance": scores.TOLERANCE,
                "calibration_bins": scores.RELIABILITY_BINS,
                "small_below": subgroups.SMALL,
            },
            "tasks": {t.name: task_json(findings, t) for t in findings.tasks},
            "groups": groups_json(findings.groups),
            "parts": subset_scores(findings, masks or {}, seed),
            "worst_examples": report.worst_examples(findings),
            "margin_sensitivity": crop,
            "capture_sensitivity": capture,
            "pictures": pictures,
            "versions": report.versions(),
            "files": sorted(
                names | {report.REPORT_JSON, report.REPORT_MD, report.REPORT_HTML}
            ),
        }
        report.write_json(content, folder)
        text = report_text.markdown(content)
        (folder / report.REPORT_MD).write_text(text, encoding="utf-8")
        text = _page(content, folder, thumbnails or {})
        (folder / report.REPORT_HTML).write_text(text, encoding="utf-8")
    return content


def _page(content, folder: Path, thumbnails: Mapping[str, bytes]) -> str:
    faces = {example: f"face-{i}.jpg" for i, example in enumerate(thumbnails)}
    embedded = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    embedded |= {faces[example]: data for example, data in thumbnails.items()}
    return report_html.page(report_text.markdown(content, faces), embedded)


def _draw(findings: Findings, folder: Path) -> dict[str, Any]:
    """Draws what there are labels for; file names by task and kind."""
    pictures: dict[str, Any] = {}
    for task in findings.tasks:
        labels, predictions = (
            findings.labels[task.name],
            findings.predictions[task.name],
        )
        found = findings.scores[task.name]
        if not next(iter(found.values())).n:
            continue
        if task.name in findings.decades:
            names = {
                "scatter": f"{task.name}_scatter.png",
                "decades": f"{task.name}_error_by_decade.png",
            }
            plots.scatter(
                task, labels, predictions, found["mae"], folder / names["scatter"]
            )
            plots.decades(
                task,
                findings.decades[task.name],
                found["mae"],
                folder / names["decades"],
            )
        else:
            names = {"confusion": f"confusion_{task.name}.png"}
            plots.confusion(
                task, findings.confusions[task.name], folder / names["confusion"]
            )
        pictures[task.name] = names
    for key, name, drawn in (
        ("groups", "error_by_group.png", plots.groups(
            findings.tasks, findings.groups, findings.scores,
            folder / "error_by_group.png")),
        ("reliability", "reliability.png", plots.reliability(
            findings.tasks, findings.reliability_curves, folder / "reliability.png")),
    ):  # fmt: skip
        if drawn:
            pictures[key] = name
    return pictures


def _check_tasks(tasks: Sequence[Task]) -> None:
    """Labels are indices into `TASKS`' classes; a model must mean the same."""
    known = {task.name: task for task in TASKS}
    for task in tasks:
        if task.name not in known:
            raise EvaluationError(
                f"expected a model that predicts some of {', '.join(known)}; this one "
                f"predicts {task.name}: evaluate it with the version that made it"
            )
        expected = known[task.name]
        if foreign([task]):
            raise EvaluationError(
                f"expected a model that predicts {task.name} as {expected.kind} "
                f"with the classes {list(expected.classes)}; this one predicts "
                f"{task.kind} with {list(task.classes)}. Its labels cannot be "
                "compared: evaluate it with the version that made it"
            )
