"""Exports in eight bits: calibrated on training faces, held to their bounds."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import synthetic
from small_network import random_model, write_workdir

from hydranet_tf.data import sources
from hydranet_tf.exporting import export, litert, parity
from hydranet_tf.exporting.export import Request
from hydranet_tf.tasks import MISSING


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 60, side=40)


@pytest.fixture(scope="module")
def examples(data):
    return sources.open_source(str(data), "all")


@pytest.fixture(scope="module")
def quantised(model, data, tmp_path_factory):
    """An export of the variants that need training faces, and its record."""
    output = tmp_path_factory.mktemp("quantised")
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    lists = str(data / "splits")
    write_workdir(model, workdir, data=str(data), split_lists=lists)
    # The classes of a network that was never trained are tossed coins; what is
    # looked at here is how the files come about.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "MAX_LOSS", {"years": 3.0, "accuracy": 0.3})
        bounds = {"years": 20.0, "probability": 0.5}
        moves = dict.fromkeys(litert.IN_8_BITS, {"mean": bounds, "each": bounds})
        patch.setattr(parity, "MAX_MOVE", moves)
        done = export.export_run(
            workdir, output, Request(["litert"], ("int8", "integer"))
        )
    return done, json.loads((output / "export.json").read_text())


def test_quantised_variants_are_calibrated_on_training_faces(quantised, data):
    done, record = quantised
    training = sources.open_source(str(data), "train", split_lists=data / "splits")
    assert [a.path.name for a in done.models] == [
        "hydranet_int8.tflite", "hydranet_integer.tflite",
    ]  # fmt: skip
    assert sorted(record) == ["hydranet_int8.tflite", "hydranet_integer.tflite"]
    for exported in done.models:
        entry = record[exported.path.name]
        assert entry["variant"] == exported.variant
        assert entry["bytes"] == exported.path.stat().st_size == exported.size
        assert entry["calibration"]["faces"] == len(training) == 36
        assert entry["examples"] == 12
        assert sum(entry["calibration"]["drawn"].values()) == len(training)
        assert set(entry["milliseconds_by_threads"]) == {"1", "2"}
        assert set(entry["largest_allowed"]) == {
            "loss_of_age",
            "loss_of_gender",
            "loss_of_race",
            "mean_difference_in_years",
            "mean_difference_in_probability",
            "each_difference_in_years",
            "each_difference_in_probability",
        }
    assert (
        f"calibrated on {len(training)} training" in done.representative_faces.summary()
    )
    assert "litert integer" in done.table.splitlines()[-1]


def test_a_quantised_variant_that_predicts_badly_is_not_published(
    model, examples, tmp_path, monkeypatch
):
    convert = litert.convert

    def a_year_too_old(network, variant, **options):
        bias = next(v for v in network.variables if v.path == "age_logits/bias")
        right = bias.numpy()
        # In spreads of the age head, of 20 years.
        bias.assign(right + 1 / 20)
        try:
            return convert(network, variant, **options)
        finally:
            bias.assign(right)

    monkeypatch.setattr(litert, "convert", a_year_too_old)
    # Without labels Keras' predictions stand for them; against labels, a network that
    # was never trained has nothing to lose.
    none = {name: np.full(len(examples), MISSING) for name in examples.labels}
    examples = dataclasses.replace(examples, labels=none)
    with pytest.raises(export.ExportError, match="hydranet_int8") as raised:
        export.export(
            model, examples, tmp_path / "output",
            Request(["litert"], ("int8",)), training=examples,
        )  # fmt: skip
    assert "age loses" in str(raised.value)
    assert not (tmp_path / "output").exists()


def test_a_quantised_variant_without_training_faces(model, examples, tmp_path):
    for training in (None, examples.select([])):
        with pytest.raises(export.ExportError, match="calibrated on training"):
            export.export(
                model, examples, tmp_path / "output",
                Request(litert_variants=("int8",)), training=training,
            )  # fmt: skip
    assert not (tmp_path / "output").exists()
