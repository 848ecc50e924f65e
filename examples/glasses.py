"""Drawn faces, every other one with glasses: python examples/glasses.py FOLDER"""

import csv
import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.append(str(Path(__file__).parents[1] / "datasets" / "drawn_faces"))
import face_drawing

folder = Path(sys.argv[1])
folder.mkdir(parents=True)
with open(folder / "faces.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["path", "age", "gender", "race", "glasses"])
    for number in range(800):
        face = face_drawing.draw_face(7, number)
        picture = Image.open(io.BytesIO(face.jpeg))
        if number % 2:
            apart = face.eyes[1][0] - face.eyes[0][0]
            for x, y in face.eyes:
                ImageDraw.Draw(picture).circle((x, y), 0.45 * apart, None, "black", 2)
        picture.save(folder / f"{number}.png")
        glasses = ("bare", "glasses")[number % 2]
        table.writerow([f"{number}.png", face.age, face.gender, face.race, glasses])
