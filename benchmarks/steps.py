"""One training step of our network, and of the same in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hydranet_tf.tasks import TASKS, Task

# What constant predictions lose on UTKFace, about.
_CONSTANT_LOSSES = {"age": 12.0, "gender": 0.7, "race": 1.4}


def batch(count: int, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Random uint8 `[count, size, size, 3]` and labels by task name."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, {
        "age": rng.integers(1, 90, count).astype("float32"),
        "gender": rng.integers(0, 2, count),
        "race": rng.integers(0, 5, count),
    }


def ours(settings, data, tasks: Sequence[Task] = TASKS) -> Callable[[], object]:
    """A step of HydraNet on `data` of `batch`, with the settings of a run."""
    from hydranet_tf import losses
    from hydranet_tf.model import HydraNet
    from hydranet_tf.training import train

    images, labels = data
    labels = {task.name: labels[task.name] for task in tasks}
    model = HydraNet(
        settings.backbone,
        settings.image_size,
        width=settings.width or None,
        augmentation=settings.augmentation,
        tasks=tasks,
        weighting=losses.UncertaintyWeights(
            [task.kind for task in tasks],
            [_CONSTANT_LOSSES[task.name] for task in tasks],
        ),
    )
    train.compile_model(model, settings, steps_per_epoch=1)
    return lambda: model.train_on_batch(images, labels)


def pytorch(backbone: str, data) -> Callable[[], object]:
    """The same step in PyTorch: Adam, learned weights of losses, channels_last."""
    import torch
    import torch_peer
    from torch.nn import functional

    images, labels = data
    peer = torch_peer.Peer(backbone)
    peer = peer.to(memory_format=torch.channels_last).train()
    variances = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([*peer.parameters(), variances], 3e-4)
    pixels = torch.from_numpy(images)
    ages, genders, races = (torch.from_numpy(labels[task.name]) for task in TASKS)

    def step():
        # As a loader hands them over, and laid out for the convolutions.
        inputs = pixels.permute(0, 3, 1, 2).float()
        logits = peer(inputs.contiguous(memory_format=torch.channels_last))
        lost = torch.stack(
            [
                functional.l1_loss(logits["age"], ages),
                functional.binary_cross_entropy_with_logits(
                    logits["gender"].squeeze(-1), genders.float()
                ),
                functional.cross_entropy(logits["race"], races),
            ]
        )
        factors = torch.tensor([1.0, 0.5, 0.5])
        loss = (torch.exp(-variances) * lost + factors * variances).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
