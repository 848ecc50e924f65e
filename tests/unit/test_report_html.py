"""The page of a report: whole, harmless, and the same as the Markdown."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_files import PICTURES

from hydranet_tf.data.sources import Examples
from hydranet_tf.evaluation import (
    evaluate,
    findings,
    report,
    report_html,
)
from hydranet_tf.tasks import TASKS

VOID = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = [
    '"><script src=http://evil.example/x.js></script>.jpg',
    "![x](http://evil.example/p.png).jpg",
    "[a](javascript:alert(1)).jpg",
    "``` | <img src=x onerror=alert(1)>",
    "back\\`slash\\|*bold* &lt; <b>",
    "<http://evil.example/>",
]


class Page(HTMLParser):
    """What a page is made of; fails where a tag is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.tables = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def some_findings(ids):
    """Everybody predicted wrongly, the first most."""
    n = len(ids)
    labels = {
        "age": np.full(n, 30.0), "gender": np.zeros(n, int), "race": np.zeros(n, int)
    }  # fmt: skip
    right = np.linspace(0.05, 0.15, n)
    predictions = {
        "age": 80.0 - np.arange(n),
        "gender": np.stack([right, 1 - right], 1),
        "race": np.stack([right, 1 - right, *np.zeros((3, n))], 1),
    }
    return findings.find(TASKS, np.array(ids), labels, predictions)


def about(source, reason="no age"):
    return {
        "model": {
            "path": "runs/`some`", "kind": "workdir", "checkpoint": "best-1",
            "epoch": 1, "image_size": 32, "loss_weights": None,
        },
        "data": {
            "source": source, "split": "validation", "digest": "ab" * 32,
            "examples": len(HOSTILE), "bad_images": [],
            "skipped": [{"id": name, "reason": reason} for name in HOSTILE],
        },
    }  # fmt: skip


def png(colour=(200, 30, 40)):
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = report.prepare(tmp_path_factory.mktemp("page"))
    found = some_findings([f"face_{i}.jpg" for i in range(40)])
    evaluate.write(found, about("some faces"), folder)
    return folder, Page((folder / "report.html").read_text())


def test_every_picture_is_within_and_described(drawn):
    folder, page = drawn
    within = {}
    for attrs in page.all("img"):
        kind, data = attrs["src"].split(";base64,")
        assert kind == "data:image/png"
        within[base64.b64decode(data, validate=True)] = attrs["alt"]
    expected = {(folder / name).read_bytes() for name in PICTURES}
    assert set(within) == expected and len(page.all("img")) == len(PICTURES)
    assert all(len(words) > 5 for words in within.values())


def test_nothing_is_loaded_or_run(drawn):
    _, page = drawn
    assert not {"script", "link", "a", "iframe", "object"} & {t for t, _ in page.tags}
    for _, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action"):
                assert value.startswith("data:image/")
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in (
        page.all("meta")
    )


def test_it_says_what_the_markdown_says(drawn):
    """Read by two parsers: every cell of every table, every line of words."""
    folder, page = drawn
    text = (folder / "report.md").read_text()
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    expected = [
        [
            [c.strip().replace("`", "") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            for i, line in enumerate(block.splitlines())
            if i != 1
        ]
        for block in blocks
    ]
    assert page.tables == expected and len(expected) > 10
    assert "Labels are what annotators saw in a picture, not facts" in page.text
    words = " ".join(page.text.split())
    headings = re.findall(r"^##? (.*)", text, re.MULTILINE)
    assert len(headings) > 6 and all(heading in words for heading in headings)
    # Worst group first, and the worst examples by name.
    (groups,) = [t for t in page.tables if t[0][0] == "group"]
    assert groups[1][0].startswith("male, white")
    assert "face_0.jpg" in words


def test_tables_scroll_and_have_names(drawn):
    _, page = drawn
    boxes = [a for a in page.all("div") if a.get("class") == "table"]
    assert len(boxes) == len(page.tables)
    for box in boxes:
        assert box["role"] == "region" and box["tabindex"] == "0" and box["aria-label"]


def test_hostile_names_are_shown_as_they_are(tmp_path, undrawn):
    reason = "cannot read <img src=http://evil.example/q> ![y](http://evil.example/y)"
    found = some_findings(HOSTILE)
    evaluate.write(found, about("<script>alert(1)</script>", reason), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert not {"script", "img", "a", "b", "em"} & {tag for tag, _ in page.tags}
    (table,) = [t for t in page.tables if t[0][:2] == ["example", "label"]][:1]
    assert [row[0] for row in table[1:]] == HOSTILE
    for name in HOSTILE:
        assert page.text.count(name) == 4, name
    assert page.text.count(reason) == len(HOSTILE)
    assert "the labels of <script>alert(1)</script>" in page.text
    assert "runs/`some`" in page.text


def test_only_known_pictures_are_embedded():
    page = Page(
        report_html.page("# T\n\n![mine](a.png) ![not](b.png)\n", {"a.png": png()})
    )
    (image,) = page.all("img")
    assert image["alt"] == "mine"
    assert base64.b64decode(image["src"].split(",")[1]) == png()
    assert "not" in page.text and "b.png" not in page.text


def test_faces_are_there_only_when_asked_for(tmp_path, undrawn):
    found = some_findings(HOSTILE)
    colours = [(40 * i, 90, 200 - 30 * i) for i in range(len(HOSTILE))]
    examples = Examples(found.ids, found.labels, read=lambda i: png(colours[i]))
    rows = report.worst_examples(found)
    assert [row["id"] for row in rows["age"]] == HOSTILE
    assert rows["age"][0]["error"] == 50 and rows["age"][0]["answer"] == "80 years"
    assert rows["race"][0]["label_probability"] == pytest.approx(0.05)
    faces = report.thumbnails(examples, rows)
    evaluate.write(found, about("x"), tmp_path, thumbnails=faces)
    page = Page((tmp_path / "report.html").read_text())
    # One in each task's row; JPEG keeps an even colour to a few steps.
    shown = page.all("img")
    assert len(shown) == 3 * len(HOSTILE)
    for attrs, colour in zip(shown, colours, strict=False):
        data = base64.b64decode(attrs["src"].removeprefix("data:image/jpeg;base64,"))
        pixel = Image.open(io.BytesIO(data)).getpixel((64, 64))
        np.testing.assert_allclose(pixel, colour, atol=6)
    assert shown[0]["alt"] == "A face labelled 30 years, predicted 80 years"
    assert "show it to those who may see them" in page.text
    assert "data:image" not in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.glob("*.jpg"))
