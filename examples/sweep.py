"""Searches settings with Optuna: python examples/sweep.py DATA FOLDER [TRIALS [EPOCHS]]

The same command again goes on with the study. Needs optuna: pip install optuna.
"""

import sys
from pathlib import Path

import optuna

sys.path.append(str(Path(__file__).parents[1]))
import hydranet_tf
from hydranet_tf.config import TrainingConfig

data, folder = sys.argv[1], Path(sys.argv[2])
trials, epochs = map(int, (*sys.argv[3:], *("20", "10")[len(sys.argv) - 3 :]))
FIXED = {"data": data, "backbone": "tiny", "image_size": 32, "optimizer": "adamw"}


def objective(trial: optuna.Trial) -> float:
    config = TrainingConfig(
        **FIXED, epochs=epochs,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        width=trial.suggest_categorical("width", [8, 16]),
    )  # fmt: skip
    history = hydranet_tf.train(config, folder / f"trial_{trial.number}")
    return min(history.history["val_age_mae"])


folder.mkdir(parents=True, exist_ok=True)
study = optuna.create_study(
    storage=f"sqlite:///{folder}/study.db", study_name="age", load_if_exists=True
)
study.optimize(objective, n_trials=trials)
print(f"best of {len(study.trials)}: {study.best_value:.2f} years {study.best_params}")
