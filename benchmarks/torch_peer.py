"""The network of HydraNet in PyTorch: a ResNet of timm and heads like ours.

Keras is imported where weights are copied, and nowhere else: a process that measures
the memory of PyTorch shall not hold two frameworks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hydranet_tf.tasks import BINARY, CATEGORICAL, TASKS

# Of ImageNet, as in hydranet_tf/backbones, and of the heads in hydranet_tf/model.py.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_HEAD_UNITS = 128


class Peer(nn.Module):
    """Images `[batch, 3, side, side]`, RGB 0..255, to the logits of each task."""

    def __init__(self, backbone: str = "resnet34", tasks=TASKS):
        super().__init__()
        # timm starts the last scale of every block at zero, and a network of blocks
        # that do nothing would make any two runtimes agree.
        self.backbone = timm.create_model(backbone, num_classes=0, zero_init_last=False)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.tasks = tasks
        self.heads = nn.ModuleDict(
            {
                task.name: nn.Sequential(
                    nn.Linear(self.backbone.num_features, _HEAD_UNITS),
                    nn.ReLU(),
                    nn.Linear(
                        _HEAD_UNITS,
                        len(task.classes) if task.kind == CATEGORICAL else 1,
                    ),
                )
                for task in tasks
            }
        )

    def forward(self, images):
        features = self.backbone((images - self.mean) / self.std)
        logits = {}
        for task in self.tasks:
            logits[task.name] = self.heads[task.name](features)
            if task.is_regression:
                years = logits[task.name] * task.spread + task.centre
                logits[task.name] = years.squeeze(-1)
        return logits


class Predictions(nn.Module):
    """What `HydraNet.inference_model` makes of the logits, in the order of tasks."""

    def __init__(self, peer: Peer):
        super().__init__()
        self.peer = peer

    def forward(self, images):
        predictions = []
        for task, logits in zip(
            self.peer.tasks, self.peer(images).values(), strict=True
        ):
            if task.is_regression:
                predictions.append(logits.clamp(task.low, task.high))
                continue
            if task.kind == BINARY:
                logits = torch.cat([torch.zeros_like(logits), logits], -1)
            predictions.append(logits.softmax(-1))
        return tuple(predictions)


def settle(peer: Peer, images: np.ndarray) -> None:
    """Takes the statistics of batch normalisation from some images.

    Without any the values of an untrained network grow from block to block, until
    its predictions are all zeros and ones, on which any two runtimes agree.

    Args:
        peer: left in its state for use.
        images: uint8 `[n, side, side, 3]`.
    """
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            # A plain mean over what comes.
            module.momentum = None
    peer.train()
    with torch.no_grad():
        peer(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    peer.train(False)


def copy_weights(peer: Peer, model) -> None:
    """Gives a HydraNet of the same backbone and tasks the weights of the peer."""
    from hydranet_tf.backbones import pretrained

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.safetensors"
        save_file(peer.backbone.state_dict(), path)
        weights = pretrained.convert(model.backbone, path)
    pretrained.assign(weights, model.network.variables)
    for task in peer.tasks:
        for layer, dense in zip(
            (peer.heads[task.name][0], peer.heads[task.name][2]),
            (f"{task.name}_hidden", f"{task.name}_logits"),
            strict=True,
        ):
            kernel, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
            model.network.get_layer(dense).set_weights([kernel.T, bias])
