/** What happens when: files chosen or dropped, the camera, and their predictions. */
import licence from "../../hydranet_tf/data/face_detector/LICENSE?raw";
import releasedUrl from "../../hydranet_tf/presets/photo_dlib29/hydranet.tflite?url";
import { CameraError, open } from "./camera";
import type { Picture } from "./crop";
import { PictureError, decode, grab } from "./decode";
import { type PredictedFace, predictFaces, predictWhole } from "./faces";
import { ConnectionError, fetched } from "./fetched";
import { ModelError } from "./metadata";
import { Model } from "./model";
import { start } from "./runtime";
import { clearFaces, counted, element, modelLine, showFaces, showPicture } from "./view";

/** The network that is there when the page opens; the build takes it from the package. */
const RELEASED = "photo_dlib29";

const modelFile = element<HTMLInputElement>("model-file");
const pictureFile = element<HTMLInputElement>("picture-file");
const exampleButton = element<HTMLButtonElement>("example");
const cameraButton = element<HTMLButtonElement>("camera");
const whole = element<HTMLInputElement>("whole");

let model: Model | undefined;
let modelName = "";
let picture: Picture | undefined;
let camera: MediaStream | undefined;

// One thing at a time, in the order in which it was asked for: a model must not go
// while it predicts.
let last: Promise<void> = Promise.resolve();

function inTurn(work: () => Promise<void>): Promise<void> {
  last = last.then(async () => {
    document.body.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      fail(error);
    } finally {
      document.body.removeAttribute("aria-busy");
    }
  });
  return last;
}

/** Says something to eyes and screen readers; the same again is not repeated. */
function say(text: string): void {
  const status = element("status");
  if (status.textContent !== text) status.textContent = text;
  element("error").hidden = true;
}

function fail(error: unknown): void {
  const known = isKnown(error);
  const text = known
    ? error.message
    : `Something went wrong in the page: ${String(error)}. Load it again.`;
  element("status").textContent = "";
  element("error").textContent = text;
  element("error").hidden = false;
  if (!known) console.error(error);
}

/** Whether the message is for the user; all else is a fault of the page. */
function isKnown(error: unknown): error is Error {
  return [ModelError, PictureError, CameraError, ConnectionError].some((k) => error instanceof k);
}

/** Says of a refused file its name, and what the page still shows instead. */
function refused(error: unknown, file: { name: string }, kept: string): unknown {
  if (isKnown(error)) error.message = `${file.name}: ${error.message} ${kept}`.trim();
  return error;
}

/** Lets the browser paint what was said before work that keeps it from that. */
function painted(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

function useModel(file: File): Promise<void> {
  return inTurn(async () => {
    say(`Reading ${file.name} …`);
    await painted();
    const content = new Uint8Array(await file.arrayBuffer());
    const loaded = await Model.load(content).catch((error: unknown) => {
      // Most exports have one name: "before" tells the two files apart.
      const inUse = model ? `The model before it, ${modelName}, is still in use` : "";
      const predictions = element("results").hidden
        ? "."
        : ", and the predictions are its own.";
      throw refused(error, file, inUse && inUse + predictions);
    });
    await take(loaded, file.name);
  });
}

function useReleased(): Promise<void> {
  return inTurn(async () => {
    say(`Loading the network ${RELEASED} …`);
    const loaded = await fetched(releasedUrl)
      .then((content) => Model.load(content))
      .catch((error: unknown) => {
        throw refused(error, { name: RELEASED }, "Or choose a model of your own.");
      });
    await take(loaded, RELEASED);
  });
}

async function take(loaded: Model, name: string): Promise<void> {
  model?.delete();
  model = loaded;
  modelName = name;
  element("model-about").textContent = modelLine(name, model.description);
  await predict();
}

/** The portrait that comes with the page. */
function useExample(): Promise<void> {
  stopCamera();
  return inTurn(async () => {
    say("Reading the portrait …");
    picture = await decode(new Blob([await fetched("astronaut.jpg")]));
    await predict();
  });
}

function usePicture(file: File): Promise<void> {
  stopCamera();
  return inTurn(async () => {
    say(`Reading ${file.name} …`);
    await painted();
    picture = await decode(file).catch((error: unknown) => {
      const kept = picture ? "The picture that is shown is the one before it." : "";
      throw refused(error, file, kept);
    });
    await predict();
  });
}

/** Predicts for the picture that is there with the model that is there. */
async function predict(): Promise<void> {
  if (!picture) {
    say("Choose a picture, drop one on the page, use the camera, or try the portrait.");
    return;
  }
  if (!model) {
    clearFaces();
    showPicture(picture);
    say("Choose a model.");
    return;
  }
  if (!camera) {
    // Predictions do not stand beside a picture that they are not of.
    clearFaces();
    showPicture(picture);
    say(whole.checked ? "Predicting …" : "Looking for faces …");
    await painted();
  }
  const predicted = whole.checked ? predictWhole : predictFaces;
  const found = await predicted(model, picture);
  showPicture(picture, found);
  showFaces(model.description.tasks, found);
  say(await summary(found));
}

async function summary(found: PredictedFace[]): Promise<string> {
  if (!found.length) {
    const hint = camera
      ? "Come closer, or turn to the light."
      : "If it is a face that fills the picture, tick “It is one face, cropped already”.";
    return `No face was found. ${hint}`;
  }
  const what = whole.checked
    ? "The picture was taken as a face"
    : `${counted(found.length)} found`;
  // The same sentence for every frame, or a screen reader would never end.
  if (camera) return `${what}.`;
  const times = found.map((face) => face.milliseconds);
  const mean = times.reduce((a, b) => a + b, 0) / times.length;
  const threads = await start();
  const each = found.length > 1 ? " for each" : "";
  const on = threads === 1 ? "one thread" : `${threads} threads`;
  return `${what}: ${mean.toFixed(0)} ms${each}, on ${on}.`;
}

async function startCamera(): Promise<void> {
  cameraButton.disabled = true;
  const video = document.createElement("video");
  try {
    camera = await open();
    video.muted = video.playsInline = true;
    video.srcObject = camera;
    await video.play();
  } catch (error) {
    stopCamera();
    fail(error);
    return;
  } finally {
    cameraButton.disabled = false;
  }
  cameraButton.textContent = "Stop the camera";
  const stream = camera;
  while (camera === stream && stream.active) {
    await inTurn(async () => {
      if (camera !== stream) return;
      picture = grab(video, video.videoWidth, video.videoHeight);
      await predict();
    });
    await painted();
  }
  // Pulled out, or taken away by the browser.
  if (camera === stream) stopCamera();
}

/** The last frame and its predictions stay. */
function stopCamera(): void {
  camera?.getTracks().forEach((track) => track.stop());
  camera = undefined;
  cameraButton.textContent = "Use the camera";
}

function onChoice(input: HTMLInputElement, use: (file: File) => Promise<void>): void {
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    // Choosing the same file again shall be a change too.
    if (file) void use(file).finally(() => (input.value = ""));
  });
}

onChoice(modelFile, useModel);
onChoice(pictureFile, usePicture);
whole.addEventListener("change", () => {
  if (picture && !camera) void inTurn(predict);
});
exampleButton.addEventListener("click", () => void useExample());
cameraButton.addEventListener("click", () => {
  if (camera) stopCamera();
  else void startCamera();
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  for (const file of event.dataTransfer?.files ?? []) {
    void (file.name.endsWith(".tflite") ? useModel(file) : usePicture(file));
  }
});

element("licence").textContent = licence;
void useReleased();
