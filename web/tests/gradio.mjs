// Gives a picture to the page of examples/gradio_app.py, for tests/integration/test_gradio.py:
// node gradio.mjs CHROMIUM URL PICTURE SCREENSHOT. Prints JSON: what the page says, the
// cells of its table, and the hosts that it asked for anything.
import { chromium } from "playwright-core";

const [executablePath, url, picture, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 1000 } });
const hosts = new Set();
page.on("request", (request) => hosts.add(new URL(request.url()).host));
await page.goto(url);
await page.setInputFiles("input[type=file]", picture);
const found = page.getByText(/^\d+ faces? found\.$/);
await found.waitFor({ timeout: 60_000 });
const table = page.getByRole("gridcell");
await table.first().waitFor();
const cells = (await table.allInnerTexts()).map((cell) => cell.trim());
await page.screenshot({ path: screenshot, fullPage: true });
console.log(JSON.stringify({ said: await found.innerText(), cells, hosts: [...hosts] }));
await browser.close();
