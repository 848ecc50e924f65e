"""From a trained run to files that servers and phones load, checked first.

Everything is written into a scratch folder beside its place, run on real
examples next to the Keras model, and moved into place only when every prediction
is within its bound. A failed export leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hydranet_tf
from hydranet_tf import checkpoints, errors, presets
from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import sources
from hydranet_tf.evaluation import report as report_files
from hydranet_tf.exporting import (
    exported_models,
    latency,
    litert,
    model_card,
    onnx_file,
    parity,
    quantization,
    saved_model,
)
from hydranet_tf.exporting.exported_models import ExportedModel, ExportError
from hydranet_tf.inference import loading
from hydranet_tf.io import atomic
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import foreign

SAVED_MODEL, LITERT = "saved_model", "litert"
ONNX, PRESET = "onnx", "preset"
FORMATS = (SAVED_MODEL, LITERT, ONNX, PRESET)
DEFAULT_FORMATS = (SAVED_MODEL, LITERT)


@dataclasses.dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        models: in the order in which they were asked for.
        table: their sizes, scores and times as text.
        representative_faces: what the quantiser looked at, where it was needed.
    """

    models: tuple[ExportedModel, ...]
    table: str
    representative_faces: quantization.Selection | None


@dataclasses.dataclass(frozen=True)
class Request:
    """What to write.

    Attributes:
        formats: of `FORMATS`.
        litert_variants: of `litert.VARIANTS`, if LiteRT is among the formats.
        dynamic_batch: LiteRT files take any number of images; by default one.
        overwrite: replaces .tflite and .onnx files and a preset that are there. A
            SavedModel version is never replaced.
    """

    formats: Sequence[str] = DEFAULT_FORMATS
    litert_variants: Sequence[str] = (litert.FLOAT32,)
    dynamic_batch: bool = False
    overwrite: bool = False

    def plan(self) -> list[tuple[str, str, str]]:
        """Format, variant and file name of every model that is exported."""
        rows = []
        for name in self.formats:
            if name == SAVED_MODEL:
                rows.append((name, litert.FLOAT32, exported_models.NAME))
            elif name == ONNX:
                rows.append((name, litert.FLOAT32, f"{exported_models.NAME}.onnx"))
            elif name == PRESET:
                rows.append((name, litert.FLOAT16, exported_models.PRESET))
            else:
                rows += [
                    (name, variant, litert.file_name(exported_models.NAME, variant))
                    for variant in self.litert_variants
                ]
        return list(dict.fromkeys(rows))

    @property
    def needs_representative_faces(self) -> bool:
        return any(
            variant in litert.NEED_REPRESENTATIVE for _, variant, _ in self.plan()
        )


def export_run(
    source: str | Path,
    output: str | Path,
    request: Request = Request(),
    *,
    checkpoint: str = "best",
    data: str | None = None,
    split: str = "validation",
    data_dir: str | None = None,
    split_lists: str | None = None,
    columns: str | None = None,
    classes: str | None = None,
    report: str | Path | None = None,
) -> Export:
    """Exports a run of train.py or a preset, checked on real examples.

    Args:
        source: workdir of the run, a preset, or the name of a network that comes with
            the package.
        output: see `export`.
        request: see `export`.
        checkpoint: `"best"` or `"last"` of a run.
        data: where the examples of the check come from, see
            `sources.open_source`; None takes what the run was trained on. A preset
            has no data of its own and needs it; representative faces come from it.
        split: goes with `data`.
        data_dir: goes with `data`; without it, replaces that of the run where given.
        split_lists: the same.
        columns: the same.
        classes: the same.
        report: folder of a report of evaluate.py on this run, for the card.

    Raises:
        hydranet_tf.errors.HydraNetError: if the run, the examples or the output is not
            what it must be, or see `export`.
    """
    _check_request(Path(output), request)
    model, config, origin = _read(source, checkpoint)
    other = foreign(model.tasks)
    if other:
        raise ExportError(
            f"{source} predicts {', '.join(other)} in its own way, and the faces of "
            "the check have the classes of this version: export it with the version "
            "that made it"
        )
    places = {
        "data_dir": data_dir or None,
        "split_lists": split_lists or None,
        "columns": columns or None,
        "classes": classes or None,
    }
    if config is None:
        if data is None:
            raise ExportError(
                f"{source} is a preset, which has no data of its own, and an export is "
                "checked on real faces: give --data"
            )
        own_data, own = data, places
    else:
        # The run's own data, and what replaces a part of their place.
        own = config.places()
        own_data = config.data
        if data is None:
            data, places = own_data, {k: v or own[k] for k, v in places.items()}
            own = places
    examples = sources.open_source(data, split, **places)
    training = None
    if request.needs_representative_faces:
        training = sources.open_source(own_data, "train", **own)
    origin = {
        **origin,
        # Names alone: what is given away tells nothing of the machine.
        "data": ",".join(Path(part).name for part in str(data).split(",")),
        "split": split,
    }
    found = None
    if report:
        found = exported_models.read_json(Path(report, report_files.REPORT_JSON))
        if not found:
            raise ExportError(
                f"expected a report of evaluate.py in {report}; there is no "
                f"{report_files.REPORT_JSON}"
            )
    return export(
        model, examples, output, request, training=training, origin=origin, report=found
    )


def _read(
    source: str | Path, checkpoint: str
) -> tuple[HydraNet, TrainingConfig | None, dict[str, Any]]:
    """The network, the settings of its run (None of a preset), where it comes from."""
    path = Path(source).expanduser()
    if not path.exists():
        path = loading.released_preset(str(source)) or path
    if loading.is_preset(path):
        if checkpoint != checkpoints.BEST:
            raise ExportError(
                f"--checkpoint={checkpoint} is of a workdir, and {source} is a preset, "
                "which has one network alone: leave it out"
            )
        model = loading.load(path)
        kept = exported_models.read_json(path / presets.METADATA)
        names = ("workdir", "checkpoint", "commit", "settings")
        about = {name: kept[name] for name in names if name in kept}
        return model, None, {**about, "preset": path.resolve().name}
    model = checkpoints.load_model(path, which=checkpoint)
    folder, _ = checkpoints.newest(path, which=checkpoint)
    config = TrainingConfig.from_json((path / "config.json").read_text("utf-8"))
    return (
        model,
        config,
        {
            "workdir": path.resolve().name,
            "checkpoint": folder.name,
            "commit": exported_models.read_json(path / "run.json").get("commit"),
            "settings": config.changed(),
        },
    )


def export(
    model: HydraNet,
    examples: sources.Examples,
    output: str | Path,
    request: Request = Request(),
    *,
    training: sources.Examples | None = None,
    origin: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
) -> Export:
    """Writes a model in every format asked for, or in none.

    `output` receives `hydranet/N` (SavedModel, N the next free version),
    `hydranet.tflite` and `hydranet_VARIANT.tflite` with a description each,
    `MODEL_CARD.md`, and `export.json`, which records how each model was
    made and how its predictions compare with the Keras model's.

    Args:
        model: any precision; what is converted is float32.
        examples: up to `parity.SIZE` of them, evenly spread, are predicted by
            the Keras model and by each export.
        output: a folder; is made.
        request: what to write.
        training: the faces that the model was trained on, from which those
            for the calibration of the quantised variants are drawn.
        origin: goes into `export.json` with each exported model.
        report: content of a report.json, for the card.

    Raises:
        ExportError: if something stands in the way, or predictions are beyond the
            bounds of `parity`.
        parity.ParityError: if there is nothing to compare.
        litert.UnsupportedOperators: if LiteRT lacks operators it needs.
    """
    output = Path(output)
    _check_request(output, request)
    _check_integer(model, request)
    model = _in_float32(model)
    sample = parity.draw(model, examples, model.image_size)
    drawn, seen = None, None
    if request.needs_representative_faces:
        drawn, seen = _representative_images(model, training)
    network = model.inference_model()
    in_8_bits = network
    if any(variant in litert.IN_8_BITS for _, variant, _ in request.plan()):
        in_8_bits = quantization.near_grid_rounded(model).inference_model()
    description = saved_model.describe(model.tasks, model.image_size)
    with exported_models.scratch_folder(output) as scratch:
        staged = []
        for name, variant, file_name in request.plan():
            path = scratch / file_name
            if name == SAVED_MODEL:
                saved_model.write(network, description, path)
            elif name == ONNX:
                onnx_file.write(network, description, path)
            elif name == PRESET:
                model.save_to_preset(path, {**(origin or {}), **_made()})
            else:
                litert.write(
                    in_8_bits if variant in litert.IN_8_BITS else network,
                    description,
                    path,
                    variant,
                    representative_faces=seen,
                    dynamic_batch=request.dynamic_batch,
                )
            compared = parity.compare(path, sample)
            staged.append(
                ExportedModel(
                    path, name, variant, exported_models.size_of(path), compared
                )
            )
        _check_parity(staged, sample)
        staged = _timed(staged, sample.images[0])
        finished = tuple(
            dataclasses.replace(one, path=exported_models.publish(one.path, output))
            for one in staged
        )
        origin = {**(origin or {}), **_about(sample, drawn)}
        exported_models.record(finished, output, origin, sample)
        table = exported_models.table(finished, sample)
        card = model_card.text(model.tasks, description, origin, table, report)
        for folder in (output, *(a.path for a in finished if a.format == PRESET)):
            atomic.write_text(folder / model_card.FILE, card)
    return Export(finished, table, drawn)


def _about(
    sample: parity.Sample, drawn: quantization.Selection | None
) -> dict[str, Any]:
    """What every model of an export has in common."""
    about = {
        **_made(),
        "image_size": sample.images.shape[1],
        "examples": len(sample),
        "keras_scores": sample.scores(sample.predictions),
    }
    if drawn is not None:
        about["calibration"] = {"faces": len(drawn.rows), "drawn": drawn.cells}
    return about


def _made() -> dict[str, Any]:
    return {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "hydranet_tf": hydranet_tf.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }


def _representative_images(
    model: HydraNet, training: sources.Examples | None
) -> tuple[quantization.Selection, np.ndarray]:
    if training is None or not len(training):
        raise ExportError(
            f"the variants {', '.join(litert.NEED_REPRESENTATIVE)} are calibrated on "
            "training faces and there are none: name the data of the run, or leave "
            "them out"
        )
    drawn = quantization.draw_representative(model.tasks, training.labels)
    faces = parity.take(training, drawn.rows, model.image_size)
    if not len(faces):
        raise ExportError("not one of the faces drawn for calibration can be decoded")
    return drawn, faces.images


def _timed(staged: Sequence[ExportedModel], image: np.ndarray) -> list[ExportedModel]:
    paths = [exported.path for exported in staged if exported.format == LITERT]
    times = latency.milliseconds(paths, image) if paths else {}
    return [
        dataclasses.replace(exported, milliseconds=times.get(exported.path))
        for exported in staged
    ]


def _check_request(output: Path, request: Request) -> None:
    """Refuses before any work is done what would be refused after it."""
    for what, asked, known in (
        ("formats", request.formats, FORMATS),
        ("LiteRT variants", request.litert_variants, litert.VARIANTS),
    ):
        unknown = [name for name in asked if name not in known]
        if unknown or not asked:
            raise ExportError(
                f"expected {what} out of {', '.join(known)}; got "
                f"{', '.join(unknown) or 'none'}"
            )
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "export runs under the TensorFlow backend; this is "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow: weights "
            "trained under another backend load there"
        )
    missing = onnx_file.missing_package() if ONNX in request.formats else None
    if missing is not None:
        raise ExportError(
            f"the format {ONNX} needs the packages {', '.join(onnx_file.PACKAGES)}: "
            f"{missing}. {errors.installation('onnx')} brings them"
        )
    if output.exists() and not output.is_dir():
        raise ExportError(f"expected a folder as --output; {output} is a file")
    exported_models.read_json(output / exported_models.RECORD)
    for name, _, file_name in request.plan():
        if name == SAVED_MODEL or request.overwrite:
            continue
        places = [output / file_name]
        if name == LITERT:
            places.append(places[0].with_suffix(".json"))
        for path in places:
            if path.exists():
                raise ExportError(
                    f"{path} exists already: give another --output, or "
                    "--overwrite to replace it"
                )


def _check_integer(model: HydraNet, request: Request) -> None:
    by_distribution = [task.name for task in model.tasks if task.is_distribution]
    if by_distribution and litert.INTEGER in request.litert_variants:
        raise ExportError(
            f"this network predicts {', '.join(by_distribution)} by quantiles of a "
            f"distribution, which 8 bits cannot hold: leave out the variant "
            f"{litert.INTEGER} and take {litert.INT8}, whose heads are float32, or "
            "train with --age_head=value"
        )


def _check_parity(staged: Sequence[ExportedModel], sample: parity.Sample) -> None:
    failed = [
        f"  {exported.path.name} by {way}: {text}"
        for exported in staged
        for way, comparison in exported.comparisons.items()
        for text in parity.excess(comparison, exported.variant, sample)
    ]
    if failed:
        raise ExportError(
            "an export predicts differently from the Keras model, so nothing "
            "was exported:\n"
            + "\n".join(failed)
            + f"\n{exported_models.table(staged, sample)}"
        )


def _in_float32(model: HydraNet) -> HydraNet:
    """The model itself, or a float32 copy of one of mixed precision.

    Converters refuse 16-bit casts, and phones have no bfloat16.
    """
    if all(layer.compute_dtype == "float32" for layer in model.network.layers):
        return model
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = HydraNet.from_config(model.get_config())
    finally:
        keras.config.set_dtype_policy(policy)
    copy.network.set_weights(model.network.get_weights())
    return copy
