/** What the page shows: the picture with its boxes, and a card for each face. */
import { type Picture, type Position, corners } from "./crop";
import { draw } from "./decode";
import type { PredictedFace } from "./faces";
import { type Description, type Task, outputsOf } from "./metadata";

/** Fraction of the probability within an interval: distributions.py, INTERVAL. */
const INTERVAL = "80 %";

export function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** A model in a line: what it predictions, how it computes, how many pixels it sees. */
export function modelLine(name: string, description: Description): string {
  const tasks = description.tasks.map((task) => task.name).join(", ");
  const size = description.image_size;
  return `${name}: ${tasks}; ${description.variant}, ${size} × ${size} pixels.`;
}

/** Draws a picture with a numbered square on each face that was found. */
export function showPicture(picture: Picture, found: PredictedFace[] = []): void {
  const canvas = element<HTMLCanvasElement>("picture");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d")!;
  context.drawImage(draw(picture), 0, 0);
  canvas.hidden = false;
  element("empty").hidden = true;
  const searched = found.filter((face) => face.square);
  canvas.setAttribute(
    "aria-label",
    searched.length ? `The picture, ${counted(searched.length)} marked` : "The picture",
  );
  // Of the picture's size, so that lines are as thick on the page whatever it has.
  const unit = Math.max(picture.width, picture.height) / 100;
  searched.forEach((face, i) => {
    outline(context, corners(face.square!), unit);
    if (found.length > 1) tag(context, String(i + 1), face.square!.corner, unit);
  });
}

function outline(context: CanvasRenderingContext2D, path: Position[], unit: number) {
  context.beginPath();
  path.forEach(([x, y]) => context.lineTo(x, y));
  context.closePath();
  context.lineJoin = "round";
  // White on black is seen on any picture.
  for (const [style, width] of [["#000a", 0.9], ["#fff", 0.45]] as const) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.stroke();
  }
}

function tag(
  context: CanvasRenderingContext2D,
  text: string,
  [x, y]: Position,
  unit: number,
) {
  context.font = `600 ${3 * unit}px system-ui, sans-serif`;
  const width = context.measureText(text).width + 2 * unit;
  const [left, top] = [Math.max(0, x), Math.max(0, y)];
  context.fillStyle = "#000c";
  context.fillRect(left, top, width, 4 * unit);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + unit, top + 2.1 * unit);
}

/** Replaces the cards. */
export function showFaces(tasks: Task[], found: PredictedFace[]): void {
  element("results").hidden = found.length === 0;
  const cards = found.map((face, i) => card(tasks, face, i, found.length));
  element("faces").replaceChildren(...cards);
}

export function clearFaces(): void {
  showFaces([], []);
}

/** "1 face", "3 faces". */
export function counted(faces: number): string {
  return faces === 1 ? "1 face" : `${faces} faces`;
}

function card(tasks: Task[], face: PredictedFace, i: number, all: number) {
  const title = all > 1 ? `Face ${i + 1}` : "Face";
  const crop = draw(face.crop);
  crop.setAttribute("role", "img");
  crop.setAttribute("aria-label", `${title}: what the network saw`);
  const time = make("p", "about", `${face.milliseconds.toFixed(0)} ms`);
  time.title = "To crop the face and to predict";
  const head = make("div", "head");
  head.append(crop, make("h3", "", title), time);
  const item = make("li", "card");
  item.append(head, ...tasks.map((task) => prediction(task, face)));
  return item;
}

function prediction(task: Task, face: PredictedFace): HTMLElement {
  const group = make("section", "task");
  group.dataset.task = task.name;
  group.append(make("h4", "", task.name));
  if (task.kind === "regression") group.append(...regression(task, face));
  else group.append(classes(task, face.predictions[task.name]!));
  return group;
}

/** The value, and on a line over the task's range the interval it may have. */
function regression(task: Task, { predictions }: PredictedFace): HTMLElement[] {
  const [value, low, high] = outputsOf(task).map((name) => predictions[name]![0]!);
  const text = make("p", "value");
  text.append(data(value!, value!.toFixed(0)), ` ${task.unit}`);
  if (low === undefined || high === undefined) return [text];
  const interval = make("span", "about");
  interval.append(
    ` ${INTERVAL} interval `,
    data(low, low.toFixed(0)),
    " to ",
    data(high, high.toFixed(0)),
  );
  text.append(interval);
  const line = make("div", "line");
  line.setAttribute("aria-hidden", "true");
  const fraction = (x: number) => (x - task.low) / (task.high - task.low);
  line.style.setProperty("--low", String(fraction(low)));
  line.style.setProperty("--value", String(fraction(value!)));
  line.style.setProperty("--high", String(fraction(high)));
  line.append(make("span", "range"), make("span", "point"));
  const ends = make("div", "ends");
  ends.setAttribute("aria-hidden", "true");
  ends.append(make("span", "", String(task.low)), make("span", "", String(task.high)));
  return [text, line, ends];
}

/** A bar for each class, in the order of the model. */
function classes(task: Task, probabilities: number[]): HTMLElement {
  const largest = Math.max(...probabilities);
  const list = make("ul", "bars");
  task.classes.forEach((name, k) => {
    const probability = probabilities[k]!;
    const bar = make("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    bar.style.setProperty("--fraction", String(probability));
    const percent = data(probability, `${(100 * probability).toFixed(0)} %`);
    const row = make("li", probability === largest ? "largest" : "");
    row.append(make("span", "name", name), bar, percent);
    list.append(row);
  });
  return list;
}

/** A rounded number that carries the exact one. */
function data(value: number, text: string): HTMLDataElement {
  const found = document.createElement("data");
  found.value = String(value);
  found.textContent = text;
  return found;
}

function make(name: string, className = "", text = ""): HTMLElement {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
