"""Peak memory of training steps.

    python benchmarks/training_memory.py --backbone=resnet34 --image_size=200 \
        --against=pytorch,one_task

builds the network with the given settings, takes three steps on one random batch,
without augmentation where none is asked for, and prints the highest resident memory
of the process. --against names what it is compared with, each in a process of its
own: the same network in PyTorch (requirements-bench.txt), and one that predicts the
first task alone, of which three predictions take three.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in train.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memory
import steps
from absl import app, flags

from hydranet_tf import config

ONE_TASK, PYTORCH = "one_task", "pytorch"

config.define_flags()
# The peer has none.
flags.FLAGS.set_default("augmentation", "none")
_TASKS = flags.DEFINE_integer("tasks", len(steps.TASKS), "How many of the tasks.")
_AGAINST = flags.DEFINE_list("against", [], f"Of {PYTORCH}, {ONE_TASK}.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")


def measure(settings: config.TrainingConfig) -> dict:
    """Takes the steps in this process."""
    import keras

    from hydranet_tf.training import train  # noqa: F401

    keras.mixed_precision.set_dtype_policy(settings.precision)
    data = steps.batch(settings.batch_size, settings.image_size)
    return memory.of_steps(
        lambda: steps.ours(settings, data, steps.TASKS[: _TASKS.value])
    )


def measure_other(network: str, settings: config.TrainingConfig) -> dict:
    """The same in a process of its own, whose memory is not ours."""
    script = "pytorch_memory.py" if network == PYTORCH else "training_memory.py"
    given = [
        f"--{name}={getattr(settings, name)}"
        for name in ("backbone", "image_size", "batch_size")
    ]
    if network == ONE_TASK:
        others = [a for a in sys.argv[1:] if not a.startswith(("--against", "--json"))]
        given = [*others, "--tasks=1"]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        script = Path(__file__).with_name(script)
        done = subprocess.run(
            [sys.executable, script, *given, f"--json={raw}"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{network} failed:\n{done.stderr}")
        found = json.loads(raw.read_text())
    return {name: found[name] for name in memory.PEAKS}


def ratios(ours: dict, other: dict, network: str) -> dict[str, float]:
    """Of whole processes, which does not measure single tasks, and above imports."""
    above, others = (
        found["peak_bytes"] - found["peak_bytes_after_imports"]
        for found in (ours, other)
    )
    if network == ONE_TASK:
        return {"ratio_above_imports": above / (3 * others)}
    return {
        "ratio": ours["peak_bytes"] / other["peak_bytes"],
        "ratio_above_imports": above / others,
    }


def compared(other: dict, network: str) -> str:
    above = f"{other['ratio_above_imports']:.2f}"
    if network == ONE_TASK:
        return f"above imports ours takes {above} of three (goal: at most 0.36)"
    return f"ours {other['ratio']:.2f} of it (goal: at most 1.2), above imports {above}"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    unknown = sorted(set(_AGAINST.value) - {PYTORCH, ONE_TASK})
    if unknown:
        raise app.UsageError(
            f"--against takes {PYTORCH}, {ONE_TASK}; got {', '.join(unknown)}"
        )
    settings = config.from_flags(flags.FLAGS)
    found = {
        "backbone": settings.backbone,
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        **measure(settings),
    }
    print(
        f"{settings.backbone} at {settings.image_size} px, batch "
        f"{settings.batch_size}, {settings.precision}: "
        f"peak {found['peak_bytes'] / 2**30:.2f} GiB "
        f"(imports alone {found['peak_bytes_after_imports'] / 2**30:.2f} GiB)"
    )
    for network in _AGAINST.value:
        other = measure_other(network, settings)
        found[network] = other | ratios(found, other, network)
        print(
            f"{network}: peak {other['peak_bytes'] / 2**30:.2f} GiB "
            f"(imports alone {other['peak_bytes_after_imports'] / 2**30:.2f} GiB); "
            + compared(found[network], network)
        )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
