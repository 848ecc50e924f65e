// Drives the built page in Chromium and writes down what it saw, for
// tests/integration/test_web.py: node browser.mjs CHROMIUM INPUTS OUTPUTS
// INPUTS holds models, pictures and camera.mjpeg; OUTPUTS receives report.json and a
// screenshot of each main state.
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import axe from "axe-core";
import { chromium } from "playwright-core";
import { preview } from "vite";

const [executablePath, inputs, outputs] = process.argv.slice(2);
const root = new URL("..", import.meta.url).pathname;
const file = (name) => path.join(inputs, name);
const report = { requests: [], console: [], axe: {}, answers: {} };

/** Serves dist/ on a free port, with the headers of `make web` or with none. */
async function serve(options) {
  const server = await preview({ root, preview: { port: 0, strictPort: false }, ...options });
  const { port } = server.httpServer.address();
  return { url: `http://localhost:${port}/`, close: () => server.close() };
}

async function launch(...args) {
  // Root in a container has no sandbox; what runs in it are our own files.
  return chromium.launch({ executablePath, args: ["--no-sandbox", ...args] });
}

async function visit(browser, url, options = {}, prepare = () => {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  await prepare(context);
  const page = await context.newPage();
  page.on("request", (request) => report.requests.push(request.url()));
  page.on("console", (message) => {
    // LiteRT writes its whole log to the console as errors.
    const isLog = /^(INFO|WARNING): /.test(message.text());
    if (message.type() === "error" && !isLog) report.console.push(message.text());
  });
  page.on("pageerror", (error) => report.console.push(String(error)));
  await page.goto(url);
  await ready(page);
  return page;
}

/** Until the network that comes with the page is there, or is known not to be. */
async function ready(page) {
  await page.waitForFunction(() => !/^(Loading .*)?$/.test(
    document.getElementById("status").textContent + document.getElementById("error").textContent,
  ), null, { timeout: 60_000 });
  await idle(page);
}

async function idle(page) {
  await page.waitForFunction(() => !document.body.hasAttribute("aria-busy"), null, {
    timeout: 60_000,
  });
}

async function useModel(page, name) {
  await page.setInputFiles("#model-file", file(name));
  await idle(page);
}

async function usePicture(page, name) {
  await page.setInputFiles("#picture-file", file(name));
  await idle(page);
}

/** What the page says and shows. */
async function seen(page) {
  return page.evaluate(() => ({
    status: document.getElementById("status").textContent,
    error: document.getElementById("error").hidden
      ? null
      : document.getElementById("error").textContent,
    about: document.getElementById("model-about").textContent,
    picture: document.getElementById("picture").getAttribute("aria-label"),
    faces: [...document.querySelectorAll("#faces > li")].map((card) => {
      const crop = card.querySelector("canvas");
      const { data } = crop.getContext("2d").getImageData(0, 0, crop.width, crop.height);
      return {
        crop: [...data].filter((_, i) => i % 4 < 3),
        text: card.innerText,
        tasks: Object.fromEntries(
          [...card.querySelectorAll("[data-task]")].map((task) => [
            task.dataset.task,
            [...task.querySelectorAll("data")].map((one) => Number(one.value)),
          ]),
        ),
      };
    }),
  }));
}

async function shot(page, name) {
  await page.screenshot({ path: path.join(outputs, `${name}.png`), fullPage: true });
}

async function inspect(page, name) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run());
  report.axe[name] = violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
}

const server = await serve({});
const browser = await launch();

// From an empty page to answers, at a desk.
{
  const page = await visit(browser, server.url);
  report.start = await seen(page);
  await shot(page, "1_start");
  await inspect(page, "start");
  report.isolated = await page.evaluate(() => self.crossOriginIsolated);
  // All that a visitor has to do.
  await page.click("#example");
  await idle(page);
  report.answers.example = await seen(page);
  await shot(page, "2_example");
  // Refused before there is a picture that could stay.
  await page.reload();
  await ready(page);
  await usePicture(page, "broken.jpg");
  report.answers.first_picture = await seen(page);
  await usePicture(page, "astronaut.png");
  report.answers.astronaut = await seen(page);
  report.model_status = report.answers.astronaut.status;
  await shot(page, "2_answers");
  await inspect(page, "answers");
  report.aria = await page.locator("body").ariaSnapshot();
  await usePicture(page, "crowd.png");
  report.answers.crowd = await seen(page);
  await shot(page, "3_crowd");
  await usePicture(page, "plain.png");
  report.answers.plain = await seen(page);
  await shot(page, "4_no_face");
  await usePicture(page, "broken.jpg");
  report.answers.broken_picture = await seen(page);
  await usePicture(page, "tiny.png");
  report.answers.tiny_picture = await seen(page);
  await useModel(page, "cut.tflite");
  report.answers.no_face_model_cut = await seen(page);

  // Pictures that are a face already.
  await page.check("#whole");
  for (const name of ["face.png", "turned.jpg", "clear.png", "wide.png", "chip.png"]) {
    await usePicture(page, name);
    report.answers[name] = await seen(page);
  }
  await shot(page, "5_face_already");
  for (const name of ["model", "float16", "dynamic", "int8", "integer"]) {
    await useModel(page, `${name}.tflite`);
    await usePicture(page, "face.png");
    report.answers[name] = await seen(page);
  }

  // A broken model leaves the one that works, and a broken picture the one before.
  for (const name of ["cut", "foreign", "damaged", "any_batch"]) {
    await useModel(page, `${name}.tflite`);
    report.answers[`model_${name}`] = await seen(page);
  }
  await shot(page, "6_broken_model");
  await usePicture(page, "broken.jpg");
  report.answers.after_broken_picture = await seen(page);
  await usePicture(page, "face.png");
  report.answers.after_broken = await seen(page);
  await page.context().close();
}

// On a phone, in the dark, by keyboard.
{
  const page = await visit(browser, server.url, {
    viewport: { width: 360, height: 740 },
    colorScheme: "dark",
    deviceScaleFactor: 2,
  });
  await shot(page, "7_phone_start");
  // From the start: a chooser that opens before Playwright looks is lost.
  page.on("filechooser", () => {});
  const focused = [];
  const choose = async (name) => {
    const chooser = page.waitForEvent("filechooser");
    await page.keyboard.press("Enter");
    await (await chooser).setFiles(file(name));
    await idle(page);
  };
  for (let i = 0; i < 5; i++) {
    await page.keyboard.press("Tab");
    focused.push(await page.evaluate(() => document.activeElement.id));
    if (focused[i] === "picture-file") await choose("astronaut.png");
    if (focused[i] === "whole") {
      report.keyboard = { before: await seen(page) };
      await page.keyboard.press("Space");
      await idle(page);
      report.keyboard.after = await seen(page);
      await page.keyboard.press("Space");
      await idle(page);
    }
    if (focused[i] === "model-file") await choose("model.tflite");
  }
  report.keyboard.focused = focused;
  report.keyboard.model = await seen(page);
  report.width = await page.evaluate(() => document.documentElement.scrollWidth);
  await shot(page, "8_phone_answers");
  await inspect(page, "phone_dark");
  await page.setViewportSize({ width: 1280, height: 900 });
  await shot(page, "9_dark");

  // Dropped instead of chosen.
  await page.reload();
  await ready(page);
  const dropped = await page.evaluateHandle((files) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
      transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
    }
    return transfer;
  }, await Promise.all(
    ["astronaut.png", "model.tflite"].map(async (name) => [
      name,
      (await readFile(file(name))).toString("base64"),
    ]),
  ));
  await page.dispatchEvent("body", "drop", { dataTransfer: dropped });
  await idle(page);
  report.answers.dropped = await seen(page);

  // No camera in this browser.
  await page.click("#camera");
  await page.waitForFunction(() => !document.getElementById("error").hidden);
  report.no_camera = await seen(page);
  await page.context().close();
}

// A server without the network: a sentence, and a model of the user's own.
{
  const { console: messages } = report;
  // The browser reports the missing file.
  report.console = [];
  const page = await visit(browser, server.url, {}, (context) =>
    context.route("**/hydranet-*.tflite", (route) => route.fulfill({ status: 404 })),
  );
  report.answers.without_released = await seen(page);
  await useModel(page, "foreign.tflite");
  report.answers.first_model = await seen(page);
  await page.click("#example");
  await idle(page);
  report.answers.picture_without_model = await seen(page);
  await useModel(page, "model.tflite");
  report.answers.own_model = await seen(page);
  report.console = messages;
  await page.context().close();
}

// Nothing gets out: neither by what scripts can send nor by what pages can load.
{
  let hits = 0;
  const elsewhere = createServer((_, response) => {
    hits += 1;
    response.writeHead(200, { "Access-Control-Allow-Origin": "*" }).end("x");
  });
  await new Promise((ready) => elsewhere.listen(0, "127.0.0.1", ready));
  const url = `http://127.0.0.1:${elsewhere.address().port}/`;
  const { console: messages, requests } = report;
  // What is refused here on purpose is not an error of the page.
  report.console = [];
  report.requests = [];
  const page = await visit(browser, server.url);
  report.refused = await page.evaluate(async (url) => {
    const broken = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      broken.push(event.effectiveDirective),
    );
    const fetched = await fetch(url).then(() => "sent", () => "refused");
    navigator.sendBeacon(url, "x");
    new Image().src = url;
    try {
      new WebSocket(url.replace("http", "ws"));
    } catch {}
    const script = document.createElement("script");
    script.src = url;
    document.body.append(script);
    const inline = document.createElement("script");
    inline.textContent = "window.inline = true";
    document.body.append(inline);
    const frame = document.createElement("iframe");
    frame.src = url;
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, { action: url, method: "post" });
    document.body.append(form);
    form.submit();
    await new Promise((resolve) => setTimeout(resolve, 500));
    return { fetched, inline: window.inline === true, broken: broken.sort() };
  }, url);
  report.refused.hits = hits;
  report.console = messages;
  report.requests = requests;
  await page.context().close();
  elsewhere.close();
}

// From a server without headers: one thread, the same answers.
{
  const plain = await serve({ configFile: false, preview: { port: 0 } });
  const page = await visit(browser, plain.url);
  await page.check("#whole");
  await usePicture(page, "face.png");
  report.plain = {
    isolated: await page.evaluate(() => self.crossOriginIsolated),
    ...(await seen(page)),
  };
  report.origins = [server.url, plain.url];
  await page.context().close();
  await plain.close();
}
await browser.close();

// A camera that films a photograph, allowed and refused.
{
  const camera = await launch(
    "--use-fake-device-for-media-stream",
    `--use-file-for-fake-video-capture=${file("camera.mjpeg")}`,
  );
  const page = await visit(camera, server.url, { permissions: ["camera"] });
  await page.click("#camera");
  await page.waitForSelector("#faces > li", { timeout: 60_000 });
  report.camera = { button: await page.textContent("#camera"), ...(await seen(page)) };
  await shot(page, "10_camera");
  await page.click("#camera");
  await idle(page);
  report.camera.stopped = await page.textContent("#camera");
  await page.context().close();

  const refused = await visit(camera, server.url);
  await refused.click("#camera");
  await refused.waitForFunction(() => !document.getElementById("error").hidden);
  report.camera_refused = await seen(refused);
  await shot(refused, "11_camera_refused");
  await camera.close();
}

await server.close();
await writeFile(path.join(outputs, "report.json"), JSON.stringify(report));
