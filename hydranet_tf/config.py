"""What a training run is told, as data: the flags of train.py.

One dataclass is the only place where a setting has its name, default and
explanation; the flags are made from it and a workdir keeps it as config.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from hydranet_tf import backbones
from hydranet_tf.augmentation import STRENGTHS
from hydranet_tf.errors import HydraNetError
from hydranet_tf.tasks import HEADS, TASKS, VALUE, Task, with_head

LEARNED = "learned"
# Settings by the names that they had before 0.2. Flags of these names go on working for
# one version, and files that hold them are read.
RENAMED = {"mirrored": "flip_tta", "teacher_share": "distillation_weight"}
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
AUTO, ONE_DEVICE, MIRRORED, MULTI_WORKER, TPU = STRATEGIES = (
    "auto", "one_device", "mirrored", "multi_worker", "tpu",
)  # fmt: skip

# Settings that a network has, and `start_from` brings.
INHERITED = ("backbone", "width", "image_size", "tasks", "age_head", "flip_tta")

# Settings that say where things lie or how far to go; a run that is resumed
# may change them. Everything else makes another run. What data and teacher say is
# held by the digest of the faces.
MAY_CHANGE = frozenset(
    ("data", "data_dir", "split_lists", "columns", "classes", "cache",
     "max_bad_images", "teacher", "epochs", "patience", "checkpoint_minutes",
     "strategy")
)  # fmt: skip


# Settings that say how another one does what it does, and the value of that one without
# which they would change nothing.
_DETAILS = {
    "momentum": ("optimizer", "sgd"),
    "loss_weights_rate": ("loss_weights", LEARNED),
    "distillation_weight": ("teacher", "FILE"),
    "balance_by": ("balance", "TASK"),
}


class ConfigError(HydraNetError, ValueError):
    """A setting that does not make sense; the message says what would."""


@dataclasses.dataclass(frozen=True)
class _Range:
    """Values that a setting takes, whatever the others are."""

    holds: Callable[[Any], bool]
    words: str


_ABOVE_0 = _Range(lambda value: value > 0, "above 0")
_FROM_0 = _Range(lambda value: value >= 0, "0 or more")
_BELOW_1 = _Range(lambda value: 0 <= value < 1, "from 0 to below 1")
_TO_1 = _Range(lambda value: 0 <= value <= 1, "from 0 to 1")
_TO_HALF = _Range(lambda value: 0 <= value <= 0.5, "from 0 to 0.5")
_PART = _Range(lambda value: _is_part(value), "backbone, or from 0 to 1")


def _setting(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    allowed: _Range | None = None,
):
    about = {"help": text, "choices": choices, "allowed": allowed}
    return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; the defaults are those of the published result."""

    data: str = _setting(
        "utkface",
        "A prepared TFDS data set by name, a folder of UTKFace-named files, "
        f"or a CSV file path,{','.join(task.name for task in TASKS)}[,split]; several "
        "of them, joined by commas, train together and are scored each by itself.",
    )
    data_dir: str = _setting(
        "", "Where prepared TFDS data sets lie; empty for TFDS' own default."
    )
    split_lists: str = _setting(
        "",
        "Folder with train.txt, validation.txt and test.txt, one file name a "
        "line, for data that is a folder of files; for several sources one for each, "
        "joined by commas, blank where a source has none.",
    )
    columns: str = _setting(
        "",
        "What a table calls ours: path=file,age=age_range; names that are usual need "
        "none.",
    )
    classes: str = _setting(
        "",
        "What a table's words for classes mean: race:East Asian=asian,Unknown=; a "
        "blank is a missing label.",
    )
    data_weights: str = _setting(
        "",
        "How much of each epoch each of several sources is, in their order, for "
        "example 2,1; empty for every face of each once.",
    )
    cache: str = _setting(
        "memory",
        "Where decoded images are kept: memory, none, or a folder.",
    )
    max_bad_images: int = _setting(
        10,
        "How many images that cannot be decoded may be left out.",
        allowed=_FROM_0,
    )
    crop_faces: bool = _setting(
        False,
        "The data are photographs: find the largest face of each and crop it first, as "
        "predict does.",
    )
    balance: str = _setting(
        "",
        "Tasks, joined by commas, whose groups (ages by decade) shall count more "
        "alike: race, or age,gender; empty for none.",
    )
    balance_by: str = _setting(
        "sampling",
        "How: faces of small groups are drawn more often, or count more in the loss.",
        ("sampling", "weights"),
    )
    class_weights: str = _setting(
        "",
        "What labels count in the loss of their task: race:others=2,black=1.5, or "
        "gender:balanced; empty for 1 each.",
    )
    backbone: str = _setting(
        "resnet34",
        f"The network: {', '.join(backbones.BACKBONES)}, or one that a module of "
        "--import registers.",
    )
    backbone_weights: str = _setting(
        "",
        "Where the backbone starts: an .npz file of tools/convert_weights.py, or "
        "'imagenet' (for dlib_resnet29 'faces') to fetch what is published; empty for "
        "random weights.",
    )
    start_from: str = _setting(
        "",
        "Where the whole network starts: a preset, the name of a released network, or "
        "the workdir of another run "
        "(its best checkpoint, and its learned loss weights). It brings "
        f"{', '.join(INHERITED)} where these flags are not given. Heads that predict "
        "something else start at random. The image size may differ: small faces first, "
        "large ones at the end.",
    )
    width: int = _setting(
        0, "Channels of the backbone's first stage; 0 for its own.", allowed=_FROM_0
    )
    image_size: int = _setting(200, "Side of the images in pixels.", allowed=_ABOVE_0)
    augmentation: str = _setting("standard", "Random changes.", STRENGTHS)
    tasks: str = _setting(
        ",".join(task.name for task in TASKS),
        "What the network predicts, out of "
        f"{', '.join(task.name for task in TASKS)}. Each needs labels in the training "
        "part.",
    )
    age_head: str = _setting(
        VALUE,
        "How age is predicted: by one value, trained by its absolute error as "
        "published, or by a distribution over years, which also gives an interval.",
        HEADS,
    )
    flip_tta: bool = _setting(
        False,
        "The trained network predicts the mean over a face and its mirror "
        "image: nearer to the labels, and twice the time. Training does not change.",
    )
    dropout: float = _setting(
        0.0, "Share of features each head drops.", allowed=_BELOW_1
    )
    mixup: float = _setting(
        0.0,
        "Largest share of another face in a training image, up to 0.5; both faces' "
        "labels count by their shares. 0 mixes none.",
        allowed=_TO_HALF,
    )
    teacher: str = _setting(
        "",
        "Predictions of other networks for the training faces: CSV files, joined by "
        "commas, with columns id, p_TASK_CLASS and predicted_age as predictions.csv "
        "of evaluate.py; empty for none. Labels are blended with their mean.",
    )
    distillation_weight: float = _setting(
        0.5,
        "How much of a blended label is the teacher's prediction.",
        allowed=_TO_1,
    )
    loss_weights: str = _setting(
        LEARNED,
        "'learned', or fixed weights of the losses in the order of --tasks, for "
        "example 0.1,1,1.",
    )
    loss_weights_rate: float = _setting(
        10.0,
        "Learning rate of the learned loss weights, in multiples of the network's.",
        allowed=_FROM_0,
    )
    epochs: int = _setting(30, "Passes over the training part.", allowed=_ABOVE_0)
    batch_size: int = _setting(
        0,
        "Examples in a batch, over all devices; 0 takes 32, or of fewer than 256 faces "
        "an eighth of them, at least 8 where there are as many.",
        allowed=_FROM_0,
    )
    freeze: str = _setting(
        "",
        "What stays as it starts: backbone, or a fraction of its layers from the image "
        "on, for example 0.7; empty for nothing.",
        allowed=_PART,
    )
    optimizer: str = _setting("adam", "The optimiser.", OPTIMIZERS)
    learning_rate: float = _setting(
        3e-4, "Its (highest) learning rate.", allowed=_ABOVE_0
    )
    weight_decay: float = _setting(
        1e-5,
        "Decay of convolution and dense kernels, decoupled.",
        allowed=_FROM_0,
    )
    momentum: float = _setting(0.9, "Momentum of sgd.", allowed=_BELOW_1)
    schedule: str = _setting(
        "constant", "How the learning rate goes on after warm-up.", SCHEDULES
    )
    warmup_epochs: float = _setting(
        0.0,
        "Epochs in which the learning rate rises from zero.",
        allowed=_FROM_0,
    )
    gradient_clip_norm: float = _setting(
        0.0,
        "Largest norm of all gradients together; 0 leaves them as they are.",
        allowed=_FROM_0,
    )
    accumulate_steps: int = _setting(
        1,
        "Batches whose gradients are averaged for one change of the weights.",
        allowed=_ABOVE_0,
    )
    ema_momentum: float = _setting(
        0.0,
        "Keep an exponential moving average of the weights with this momentum, "
        "for example 0.999, and use it wherever the network is judged or used: "
        "validation, the best checkpoint, the network that training returns. The "
        "last checkpoint keeps both. 0 keeps none.",
        allowed=_BELOW_1,
    )
    strategy: str = _setting(
        AUTO,
        "Devices that train together: auto takes the workers of TF_CONFIG, else "
        "all GPUs of this machine, else one device.",
        STRATEGIES,
    )
    sync_batch_norm: bool = _setting(
        False,
        "Normalise with the statistics of the whole batch, not of each device's "
        "share (TensorFlow; on JAX it is always so).",
    )
    precision: str = _setting("float32", "Precision of the backbone.", PRECISIONS)
    xla: bool = _setting(
        False, "Compile the step with XLA (on CPU often slower; JAX always does)."
    )
    seed: int = _setting(
        0, "Of initial weights, order and augmentation.", allowed=_FROM_0
    )
    deterministic: bool = _setting(
        False, "Use deterministic operations only: repeatable, slower."
    )
    monitor: str = _setting(
        "age_mae",
        "Validation score that chooses the best checkpoint and stops early, "
        "for example age_mae, race_accuracy, or NAME/age_mae of one of several "
        "sources.",
    )
    patience: int = _setting(
        0,
        "Stop after this many epochs without a better monitored score; 0 "
        "never stops early.",
        allowed=_FROM_0,
    )
    checkpoint_minutes: float = _setting(
        10.0,
        "Minutes between checkpoints inside an epoch; 0 saves after epochs alone.",
        allowed=_FROM_0,
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            choices = field.metadata["choices"]
            value = getattr(self, field.name)
            if choices and value not in choices:
                raise ConfigError(
                    f"--{field.name}: unknown {field.name} {value!r}; known "
                    f"are {', '.join(choices)}"
                )
            allowed = field.metadata["allowed"]
            if allowed:
                _require(self, field.name, allowed.holds(value), allowed.words)
        try:
            row = backbones.get(self.backbone)
        except ValueError as error:
            raise ConfigError(f"--backbone: {error}") from None
        _require(
            self,
            "image_size",
            self.image_size >= row.smallest,
            f"at least {row.smallest} for {self.backbone}",
        )
        _require(
            self,
            "width",
            not self.width or row.width is not None,
            f"0 for {self.backbone}, which has no width to choose",
        )
        _require(
            self,
            "warmup_epochs",
            self.warmup_epochs < self.epochs,
            f"less than the {self.epochs} epochs",
        )
        _require(
            self,
            "start_from",
            not (self.start_from and self.backbone_weights),
            "empty where --backbone_weights is given: both would set the backbone",
        )
        known = [task.name for task in self.asked_tasks()]
        groups = [name.strip() for name in self.balance.split(",")]
        _require(
            self,
            "balance",
            not self.balance or set(groups) <= set(known),
            f"some of {', '.join(known)}, joined by commas",
        )
        self.fixed_loss_weights()

    def places(self) -> dict[str, str | None]:
        """What `sources.open_source` takes beside the data and the split."""
        names = ("data_dir", "split_lists", "columns", "classes")
        return {name: getattr(self, name) or None for name in names}

    def asked_tasks(self) -> tuple[Task, ...]:
        """What the network predicts, with the head that `age_head` says."""
        known = {task.name: task for task in TASKS}
        names = [name.strip() for name in self.tasks.split(",")]
        if len(set(names)) < len(names) or not known.keys() >= set(names):
            raise ConfigError(
                f"--tasks must be some of {', '.join(known)}, separated by commas, "
                f"each once; got {self.tasks!r}"
            )
        return with_head([known[name] for name in names], self.age_head)

    def fixed_loss_weights(self) -> tuple[float, ...] | None:
        """The fixed weights, or None where they are learned."""
        if self.loss_weights == LEARNED:
            return None
        try:
            weights = tuple(float(w) for w in self.loss_weights.split(","))
        except ValueError:
            weights = ()
        asked = self.asked_tasks()
        in_range = len(weights) == len(asked) and all(0 <= w < 1e6 for w in weights)
        if not in_range or not any(weights):
            raise ConfigError(
                f"--loss_weights must be 'learned' or {len(asked)} numbers, 0 or "
                "more and not all 0, separated by commas, one for each of "
                f"{', '.join(task.name for task in asked)}; got "
                f"{self.loss_weights!r}"
            )
        return weights

    def that_make_the_run(self) -> dict[str, Any]:
        """What workers that train together must have the same."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in MAY_CHANGE or name in ("epochs", "patience")
        }

    def changed(self) -> str:
        """The settings that are not the defaults, as flags, without places.

        A teacher is a place, too, but without it the network would be another. Of
        places that begin at the root the last name is given: the folders above it are
        those of one machine.
        """
        return " ".join(
            f"--{field.name}={_without_folders(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name not in MAY_CHANGE - {"epochs", "patience", "teacher"}
            and getattr(self, field.name) != field.default
        )

    def to_json(self) -> str:
        """The settings as they stand in config.json."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainingConfig:
        """Reads what `to_json` wrote.

        Raises:
            ConfigError: on a setting that this version does not know.
        """
        values = {
            RENAMED.get(name, name): value for name, value in json.loads(text).items()
        }
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"config.json holds settings this version does not know: "
                f"{', '.join(unknown)}; use the version that wrote it"
            )
        return cls(**values)

    def conflicts(self, other: TrainingConfig) -> list[str]:
        """Settings of `other` that make it another run, one line each."""
        return [
            f"--{name}: {getattr(self, name)!r} before, {getattr(other, name)!r} now"
            for name in (field.name for field in dataclasses.fields(self))
            if name not in MAY_CHANGE and getattr(self, name) != getattr(other, name)
        ]


def _without_folders(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    places = (part.strip() for part in value.split(","))
    return ",".join(
        Path(place).name if place.startswith(("/", "~")) else place for place in places
    )


def _is_part(text: str) -> bool:
    try:
        return text in ("", "backbone") or 0 <= float(text) <= 1
    except ValueError:
        return False


def _require(config, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"--{name} must be {expected}; got {getattr(config, name)}")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each setting among `values`."""
    define: dict[str, Callable[..., Any]] = {
        "str": flags.DEFINE_string,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "bool": flags.DEFINE_bool,
    }
    for field in dataclasses.fields(TrainingConfig):
        text, choices = field.metadata["help"], field.metadata["choices"]
        default: Any = field.default
        if choices:
            flags.DEFINE_enum(field.name, default, choices, text, flag_values=values)
        else:
            define[str(field.type)](field.name, default, text, flag_values=values)
    for old, name in RENAMED.items():
        flags.DEFINE_alias(old, name, flag_values=values)


def from_flags(
    values: flags.FlagValues, inherited: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Reads the flags that `define_flags` defined.

    Args:
        values: the flags.
        inherited: what counts where a flag was not given, see `INHERITED`.

    Raises:
        ConfigError: on a value that does not make sense, and on a flag that would
            change nothing beside the others.
    """
    settings: dict[str, Any] = {
        field.name: values[field.name].value
        for field in dataclasses.fields(TrainingConfig)
    }
    for name, value in (inherited or {}).items():
        if not values[name].present:
            settings[name] = value
    config = TrainingConfig(**settings)
    for name, (other, needed) in _DETAILS.items():
        # In capitals stands what may have any value, but has to have one.
        has = getattr(config, other)
        used = bool(has) if needed.isupper() else has == needed
        if not used and getattr(config, name) != values[name].default:
            raise ConfigError(
                f"--{name} changes nothing without --{other}={needed}; give both, or "
                "neither"
            )
    return config
