"""Every flag of train.py, evaluate.py, export.py and predict.py does what it names.

Three things together show it: a flag's value arrives where the work is done, alone; the
work heeds it, by the test that `TESTS` names; and a new flag without both fails here.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import types
from pathlib import Path

import forks
import keras
import numpy as np
import pytest
import released
import synthetic
from absl import flags

from hydranet_tf import config
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.evaluation import evaluate
from hydranet_tf.inference import loading, runtimes
from hydranet_tf.tasks import AGE
from hydranet_tf.training import train

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS_FOLDER = REPOSITORY / "tests"

# What all commands take before they know their other flags.
SHARED = {
    "import": "integration/test_own_parts.py::test_a_module_that_is_not_there",
    "tasks_file": "integration/test_own_parts.py::"
    "test_tasks_of_a_file_are_asked_by_every_command",
}
# How data are found: `sources.open_source`, for whichever command.
DATA = {
    "data": "unit/test_sources.py::test_data_that_are_not_there",
    "data_dir": "integration/test_tfds_source.py::test_a_data_set_of_somebody_else",
    "split_lists": "integration/test_evaluation.py::test_the_command",
    "columns": "unit/test_importers.py::"
    "test_columns_and_classes_have_the_names_that_are_given",
    "classes": "unit/test_importers.py::"
    "test_columns_and_classes_have_the_names_that_are_given",
    "max_bad_images": "unit/test_pipeline.py::"
    "test_too_many_bad_images_stop_the_run_with_their_names",
    "crop_faces": "unit/test_crop_faces.py::"
    "test_faces_are_cropped_as_predict_crops_them",
}
HERE = "unit/test_flags.py::test_a_setting_changes_what_it_names"
START = "unit/test_flags.py::test_settings_that_are_made_before_data_are_read"
TESTS = {
    "train": {
        **SHARED,
        **DATA,
        "workdir": "unit/test_workdir.py::test_a_read_only_workdir_is_named",
        "folds": "integration/test_fine_tuning.py::"
        "test_folds_score_every_face_by_a_network_that_has_not_seen_it",
        "check": "unit/test_check.py::"
        "test_the_command_needs_no_workdir_and_says_what_is_wrong",
        "tracker": "integration/test_trackers.py::test_wandb_has_the_curves_offline",
        "data_weights": "unit/test_several_sources.py::"
        "test_weights_that_are_not_one_for_each_source",
        "cache": "unit/test_pipeline.py::test_caches_change_nothing_but_the_time",
        "balance": "integration/test_balance.py::"
        "test_sampling_draws_small_groups_more_often",
        "balance_by": "integration/test_balance.py::"
        "test_weights_leave_the_order_and_change_the_loss",
        "class_weights": "integration/test_balance.py::test_class_weights_by_task",
        "backbone_weights": "unit/test_pretrained.py::"
        "test_a_run_begins_with_the_weights_and_records_them",
        "start_from": "unit/test_initialization.py::"
        "test_larger_images_go_on_with_the_whole_network",
        "teacher": "integration/test_distillation.py::"
        "test_a_network_learns_what_its_teacher_says",
        "distillation_weight": "integration/test_distillation.py::"
        "test_a_network_learns_what_its_teacher_says",
        "epochs": "integration/test_training.py::"
        "test_early_stopping_counts_across_a_resume",
        "patience": "integration/test_training.py::"
        "test_early_stopping_counts_across_a_resume",
        "batch_size": "unit/test_pipeline.py::"
        "test_fewer_examples_than_a_batch_is_an_error",
        "freeze": "integration/test_fine_tuning.py::"
        "test_what_is_frozen_stays_and_the_rest_learns",
        "weight_decay": "integration/test_training.py::"
        "test_decay_shrinks_kernels_and_nothing_else",
        "schedule": "integration/test_training.py::test_schedules_by_hand",
        "warmup_epochs": "integration/test_training.py::test_schedules_by_hand",
        "gradient_clip_norm": "unit/test_gradients.py::"
        "test_the_norm_of_all_gradients_is_clipped",
        "accumulate_steps": "unit/test_gradients.py::"
        "test_accumulated_gradients_are_averaged_and_then_clipped",
        "ema_momentum": "unit/test_averaging.py::test_the_average_by_hand",
        "strategy": "integration/test_strategies.py::test_a_strategy_that_does_not_fit",
        "monitor": "integration/test_training.py::test_unknown_monitor_names_the_known",
        "checkpoint_minutes": "integration/test_interruptions.py::"
        "test_killed_told_to_leave_and_resumed_equals_unbroken",
        "precision": START,
        "seed": START,
        "deterministic": START,
        **dict.fromkeys(
            ("backbone", "width", "image_size", "augmentation", "tasks", "age_head",
             "flip_tta", "dropout", "mixup", "loss_weights", "loss_weights_rate",
             "optimizer", "learning_rate", "momentum", "sync_batch_norm", "xla"),
            HERE,
        ),
        "mirrored": "unit/test_config.py::test_flags_are_the_settings",
        "teacher_share": "unit/test_config.py::test_flags_are_the_settings",
    },
    "evaluate": {
        **SHARED,
        **DATA,
        "model": "integration/test_evaluation.py::test_the_command",
        "output": "integration/test_evaluation.py::test_the_command",
        "split": "integration/test_evaluation.py::test_the_command",
        "batch_size": "unit/test_flags.py::"
        "test_evaluation_takes_batch_size_images_at_once",
        "fit_temperatures": "integration/test_evaluation.py::"
        "test_temperatures_are_fitted_kept_and_used",
        "calibrate": "unit/test_flags.py::test_old_names_are_the_same_flags",
        "show_faces": "integration/test_evaluation.py::test_the_command",
        "projector": "integration/test_evaluation.py::test_the_command",
    },
    "export": {
        **SHARED,
        **{name: test for name, test in DATA.items() if name not in
           ("max_bad_images", "crop_faces")},
        "model": "integration/test_sources_of_export.py::test_one_source_is_named",
        "workdir": "integration/test_export.py::test_the_command",
        "output": "integration/test_export.py::test_the_command",
        "split": "integration/test_export.py::test_the_command",
        "format": "integration/test_export.py::test_the_command",
        "litert_variants": "integration/test_export.py::"
        "test_requests_that_are_refused_before_any_work",
        "dynamic_batch": "integration/test_litert.py::test_a_dynamic_batch_is_resized",
        "checkpoint": "integration/test_sources_of_export.py::"
        "test_what_a_preset_does_not_have_is_said",
        "overwrite": "integration/test_export.py::"
        "test_a_tflite_file_is_not_replaced_unasked",
        "report": "unit/test_presets.py::test_the_card_quotes_the_report",
    },
    "predict": {
        **SHARED,
        "model": "integration/test_predict.py::"
        "test_all_three_kinds_of_model",
        "output": "integration/test_predict.py::"
        "test_all_three_kinds_of_model",
        "annotate": "integration/test_predict.py::"
        "test_all_three_kinds_of_model",
        "bom": "unit/test_rows.py::test_a_table_opens_in_pandas",
        "save_crops": "integration/test_predict.py::"
        "test_crops_are_saved_as_the_network_saw_them",
        "runtime": "unit/test_flags.py::test_a_runtime_that_does_not_fit_is_refused",
        "no_detect": "integration/test_predict.py::"
        "test_the_script_takes_faces_as_they_are_and_says_what_is_wrong",
        "min_score": "unit/test_yunet.py::test_the_lowest_score_can_be_chosen",
        "min_face": "unit/test_yunet.py::test_the_smallest_face",
        "batch_size": "integration/test_predict.py::"
        "test_a_run_that_was_broken_off_goes_on",
        "runner": "integration/test_sharded.py::"
        "test_without_ray_the_message_says_what_to_install",
        "camera": "unit/test_video.py::test_a_camera_ends_with_ctrl_c_and_has_its_rows",
        "frames": "unit/test_video.py::test_frames_need_an_output_of_their_own",
        "frame_step": "unit/test_video.py::test_every_third_frame",
    },
}  # fmt: skip
# A value that is not the default, where a number more or the other choice will not do.
OTHER = {
    "data": "x.csv", "data_dir": "d", "split_lists": "s", "columns": "path=file",
    "classes": "race:x=asian", "data_weights": "2,1", "cache": "none",
    "balance": "race", "class_weights": "race:others=2", "backbone": "resnet18",
    "backbone_weights": "w.npz", "start_from": "run", "tasks": "age,gender",
    "age_head": "distribution", "teacher": "t.csv", "loss_weights": "1,2,3",
    "freeze": "backbone", "monitor": "race_accuracy",
    "dropout": 0.25, "mixup": 0.25, "distillation_weight": 0.25, "momentum": 0.25,
    "ema_momentum": 0.25, "warmup_epochs": 2.0,
}  # fmt: skip
# What else has to be given for a setting to have a meaning.
WITH = {
    "momentum": ["--optimizer=sgd"],
    "distillation_weight": ["--teacher=t.csv"],
    "balance_by": ["--balance=race"],
}
# Command-line values and what arrives. None: a switch.
EVALUATE = {
    "model": "m2", "data": "d2", "output": "o2", "split": "test", "data_dir": "p",
    "split_lists": "s", "columns": "path=file", "classes": "race:x=asian",
    "batch_size": 3, "max_bad_images": 4, "fit_temperatures": None, "crop_faces": None,
    "show_faces": None, "projector": "points",
}  # fmt: skip
EXPORT = {
    "model": "m2", "output": "o2", "format": "onnx", "litert_variants": "int8",
    "dynamic_batch": None, "checkpoint": "last", "data": "d2", "split": "test",
    "data_dir": "p", "split_lists": "s", "columns": "path=file",
    "classes": "race:x=asian", "overwrite": None, "report": "r",
}  # fmt: skip


def defined(command: str) -> set[str]:
    """Names of the flags of a command, as they stand in its source."""
    define = re.compile(r'flags\.DEFINE_\w+\(\s*"(\w+)"')
    folder = REPOSITORY / "hydranet_tf" / "commands"
    found = {
        name
        for file in (command, "running")
        for name in define.findall((folder / f"{file}.py").read_text())
    }
    if command == "train":
        found |= {field.name for field in dataclasses.fields(TrainingConfig)}
        found |= set(config.RENAMED)
    return found


def source_of(test: str) -> str:
    """A test with its parameters, as it stands in its file."""
    file, name = test.split("::")
    text = (TESTS_FOLDER / file).read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise AssertionError(f"there is no {test}")


@pytest.mark.parametrize("command", TESTS)
def test_every_flag_has_its_test(command):
    assert defined(command) == set(TESTS[command])


@pytest.mark.parametrize(
    ("flag", "test"),
    sorted({row for table in TESTS.values() for row in table.items()}),
)
def test_the_test_of_a_flag_is_about_it(flag, test):
    # The table of this file is where its own are named.
    source = json.dumps([*SETTINGS]) if test == HERE else source_of(test)
    assert re.search(rf"\b{flag}\b|-{flag}\b", source), f"{test} does not name {flag}"


@pytest.fixture(scope="module")
def values():
    found = flags.FlagValues()
    config.define_flags(found)
    return found


def another(field: dataclasses.Field):
    if field.name in OTHER:
        return OTHER[field.name]
    if choices := field.metadata["choices"]:
        return next(choice for choice in choices if choice != field.default)
    return not field.default if field.type == "bool" else field.default + 1


@pytest.mark.parametrize(
    "field", dataclasses.fields(TrainingConfig), ids=lambda f: f.name
)
def test_a_flag_of_train_sets_its_setting_alone(field, values):
    beside = WITH.get(field.name, [])
    values(["train.py", *beside])
    before = config.from_flags(values) if not beside else None
    value = another(field)
    values.unparse_flags()
    values(["train.py", *beside, f"--{field.name}={value}"])
    after = config.from_flags(values)
    assert getattr(after, field.name) == value != field.default
    if before is not None:
        assert dataclasses.replace(after, **{field.name: field.default}) == before
    for one in values:
        values[one].unparse()


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ("--momentum=0.5", "--optimizer=sgd"),
        ("--distillation_weight=0.25", "--teacher=FILE"),
        ("--balance_by=weights", "--balance=TASK"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(given, needed, values):
    values(["train.py", given])
    with pytest.raises(ConfigError, match=f"changes nothing without {needed}"):
        config.from_flags(values)
    for one in values:
        values[one].unparse()


def called(command: str, function: str, cases: dict[str, list[str]]) -> dict:
    """How a command calls what does the work, for several lines of flags.

    A process of its own, since flags are global; the module of the work is a stub.
    """
    package, module, name = function.split(".")
    script = f"""
import dataclasses, json, sys, types
from absl import flags
from hydranet_tf.commands import running, {command} as command
seen = []
def record(*given, **named):
    seen.append({{**dict(enumerate(map(str, given))), **named}})
    return types.SimpleNamespace(calibration=None, representative_faces=None,
                                 table="", models=())
stub = types.ModuleType("{module}")
stub.{name}, stub.Request, stub.summaries = record, lambda *a: repr(a), lambda *a: ""
sys.modules["hydranet_tf.{package}.{module}"] = stub
cases, found = json.load(sys.stdin), {{}}
for case, line in cases.items():
    flags.FLAGS.unparse_flags()
    for one in flags.FLAGS:
        flags.FLAGS[one].unparse()
    command.main(flags.FLAGS(["x", *line])[1:])
    found[case] = seen.pop()
print("\\n" + json.dumps(found))
"""
    done = forks.run(["-c", script], input=json.dumps(cases), cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("command", "function", "values", "required"),
    [
        ("evaluate", "evaluation.evaluate.evaluate_sources", EVALUATE,
         {"model": "m", "data": "d", "output": "o"}),
        ("export", "exporting.export.export_run", EXPORT,
         {"model": "m", "output": "o"}),
    ],
)  # fmt: skip
def test_a_flag_reaches_the_work_and_nothing_else_does(
    command, function, values, required
):
    old = {"calibrate", "workdir"}
    assert defined(command) - old - set(SHARED) == set(values)

    def line(**given):
        return [f"--{n}" + (f"={v}" if v is not None else "") for n, v in given.items()]

    cases = {name: line(**{**required, name: value}) for name, value in values.items()}
    found = called(command, function, {"": line(**required), **cases})
    base = found.pop("")
    for name, call in found.items():
        (changed,) = [key for key in base if call[key] != base[key]]
        value = values[name] if values[name] is not None else True
        assert str(value) in str(call[changed]), name


@pytest.mark.parametrize(
    ("command", "function", "old", "new", "required"),
    [
        ("evaluate", "evaluation.evaluate.evaluate_sources", "--calibrate",
         "--fit_temperatures", ["--model=m", "--data=d", "--output=o"]),
        ("export", "exporting.export.export_run", "--workdir=m", "--model=m",
         ["--output=o"]),
    ],
)  # fmt: skip
def test_old_names_are_the_same_flags(command, function, old, new, required):
    found = called(
        command, function, {"old": [old, *required], "new": [new, *required]}
    )
    assert found["old"] == found["new"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = synthetic.write_folder(tmp_path_factory.mktemp("flags"), 8, side=32)
    return pipeline.load_faces(sources.open_source(str(folder), "all"), 32)


def test_a_runtime_that_does_not_fit_is_refused():
    with pytest.raises(loading.LoadError, match="Leave --runtime at auto"):
        runtimes.load(released.LITERT, engine="onnxruntime")


def test_evaluation_takes_batch_size_images_at_once(faces):
    sizes = []

    def predictions(images):
        sizes.append(len(images))
        return {"age": images.mean((1, 2, 3))}

    loaded = types.SimpleNamespace(predictions=predictions, tasks=[AGE])
    few = evaluate.predict(loaded, faces, batch_size=3)["age"]
    assert sizes == [3, 3, 2]
    np.testing.assert_array_equal(few, evaluate.predict(loaded, faces, 64)["age"])
    assert sizes[3:] == [8]


def settings(**changes):
    small = {"backbone": synthetic.stem(), "image_size": 32, "augmentation": "none"}
    return TrainingConfig(**{**small, **changes})


@pytest.fixture
def made(faces):
    def make(**changes):
        keras.utils.set_random_seed(0)
        given = settings(**changes)
        model = train.build_model(given, faces)
        train.compile_model(model, given, steps_per_epoch=1)
        return model

    return make


def in_training(model):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return np.asarray(model(noise, training=True)["race"])


def norms(model):
    kind = keras.layers.BatchNormalization
    layers = [x for x in model.network._flatten_layers() if isinstance(x, kind)]
    assert layers
    return {layer.synchronized for layer in layers}


# By setting: a value, and what is looked at with it and without.
SETTINGS = {
    "backbone": ("resnet18", lambda m: m.network.count_params()),
    "width": (8, lambda m: m.network.count_params()),
    "image_size": (48, lambda m: m.input_shape),
    "augmentation": ("strong", in_training),
    "tasks": ("age,race", lambda m: sorted(m.output)),
    "age_head": ("distribution", lambda m: sorted(m.inference_model().output)),
    "flip_tta": (True, lambda m: m.get_config()["flip_tta"]),
    "dropout": (0.5, in_training),
    "mixup": (0.5, in_training),
    "loss_weights": ("2,1,1", lambda m: m.task_weights()["alpha"]),
    "loss_weights_rate": (3.0, lambda m: m.weighting.rate),
    "optimizer": ("sgd", lambda m: type(m.optimizer).__name__),
    "learning_rate": (0.5, lambda m: float(m.optimizer.learning_rate)),
    "momentum": (0.25, lambda m: m.optimizer.momentum),
    "sync_batch_norm": (True, norms),
    "xla": (True, lambda m: m.jit_compile),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_what_it_names(name, made):
    value, look = SETTINGS[name]
    beside = {"optimizer": "sgd"} if name == "momentum" else {}
    before, after = look(made(**beside)), look(made(**beside, **{name: value}))
    assert not np.array_equal(before, after)


def test_settings_that_are_made_before_data_are_read(monkeypatch, tmp_path):
    """The seed of everything, the precision, and operations that repeat."""

    class Read(Exception):
        pass

    def load(*_):
        raise Read

    asked = []
    monkeypatch.setattr(train, "load", load)
    monkeypatch.setattr(train, "_make_deterministic", lambda: asked.append(1))
    draws = {}
    try:
        for number, changes in enumerate(
            ({}, {"seed": 5}, {"precision": "mixed_bfloat16"}, {"deterministic": True})
        ):
            with pytest.raises(Read):
                train.train(settings(**changes), tmp_path / str(number))
            policy = keras.mixed_precision.dtype_policy().name
            draws[tuple(changes)] = np.random.rand()
            assert policy == changes.get("precision", "float32")
            assert len(asked) == changes.get("deterministic", 0)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert draws[()] == draws[("precision",)] == draws[("deterministic",)]
    assert draws[()] != draws[("seed",)]
