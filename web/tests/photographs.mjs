// Has the built page predict for photographs, for benchmarks/browser_parity.py:
// node photographs.mjs CHROMIUM, with a JSON list of paths on standard input. One line of
// JSON a photograph on standard output: age and probabilities of its faces, the largest
// first, and milliseconds from the file to the predictions.
import { text } from "node:stream/consumers";
import { chromium } from "playwright-core";
import { preview } from "vite";

const root = new URL("..", import.meta.url).pathname;
// First: Vite ends the process with standard input.
const paths = JSON.parse(await text(process.stdin));
const server = await preview({ root, preview: { port: 0, strictPort: false } });
const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ["--no-sandbox"],
});
const page = await browser.newPage();
await page.goto(`http://localhost:${server.httpServer.address().port}/`);
await page.waitForFunction(() => /^Choose/.test(document.getElementById("status").textContent));

for (const path of paths) {
  const start = performance.now();
  await page.setInputFiles("#picture-file", path);
  await page.waitForFunction(() => !document.body.hasAttribute("aria-busy"), null, {
    timeout: 120_000,
  });
  const milliseconds = performance.now() - start;
  const seen = await page.evaluate(() => ({
    error: document.getElementById("error").hidden
      ? null
      : document.getElementById("error").textContent,
    faces: [...document.querySelectorAll("#faces > li")].map((card) =>
      Object.fromEntries(
        [...card.querySelectorAll("[data-task]")].map((task) => [
          task.dataset.task,
          [...task.querySelectorAll("data")].map((one) => Number(one.value)),
        ]),
      ),
    ),
  }));
  console.log(JSON.stringify({ ...seen, milliseconds }));
}
await browser.close();
await server.close();
