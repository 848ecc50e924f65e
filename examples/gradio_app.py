"""A page to try a network on, by Gradio: a picture in, faces and predictions out.

    pip install 'hydranet_tf[demo]'
    python examples/gradio_app.py

serves it on http://127.0.0.1:7860, for this machine alone; --model takes any other
network that `hydranet predict` takes.

The predictions estimate what annotators saw in pictures. They are not facts about a
person.
"""

import argparse
import os

# Before the import, which would report each start to Gradio's makers.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio
import numpy as np

from hydranet_tf.inference.predictor import Face, PictureError, Predictor

ABOUT = (
    "The predictions estimate what annotators saw in pictures. They are not facts "
    "about a person, and they are wrong more often for some groups than for others."
)
HEADERS = ["face", "age", "80 % interval", "gender", "race"]


def row(number: int, face: Face) -> list:
    """A face as the table shows it."""
    interval = (
        "" if face.age_low is None else f"{face.age_low:.0f} to {face.age_high:.0f}"
    )
    cells = [
        f"{name} ({100 * max(face.probabilities[task].values()):.0f} %)"
        for task, name in (("gender", face.gender), ("race", face.race))
    ]
    return [number, f"{face.age:.1f}", interval, *cells]


def page(predictor: Predictor) -> gradio.Blocks:
    """The page for one network."""

    def predict(picture: np.ndarray | None):
        if picture is None:
            raise gradio.Error("Choose a picture first.")
        try:
            faces = predictor(picture)
        except PictureError as error:
            raise gradio.Error(str(error)) from error
        marked = [(face.box, str(i)) for i, face in enumerate(faces, 1)]
        found = "1 face found." if len(faces) == 1 else f"{len(faces)} faces found."
        return (
            (picture, marked),
            [row(i, face) for i, face in enumerate(faces, 1)],
            found,
        )

    with gradio.Blocks(title="HydraNet") as blocks:
        gradio.Markdown(f"# Age, gender and race of faces\n\n{ABOUT}")
        with gradio.Row():
            picture = gradio.Image(label="Picture", type="numpy")
            marked = gradio.AnnotatedImage(label="Faces")
        found = gradio.Markdown()
        table = gradio.Dataframe(
            headers=HEADERS, label="Predictions", interactive=False
        )
        picture.change(predict, picture, [marked, table, found])
    return blocks


def main() -> None:
    """Reads the command line and serves the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a .tflite file, a preset or a workdir")
    parser.add_argument("--port", type=int, default=7860)
    arguments = parser.parse_args()
    page(Predictor(arguments.model)).launch(
        server_name="127.0.0.1", server_port=arguments.port
    )


if __name__ == "__main__":
    main()
