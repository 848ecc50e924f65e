/** LiteRT in WebAssembly, started once; every model of the page runs on it. */
import {
  type CompiledModel,
  loadAndCompile,
  loadLiteRt,
  supportsFeature,
  Tensor,
} from "@litertjs/core";

/** Beyond these, a network of a few milliseconds gains nothing. */
const MOST_THREADS = 4;

let started: Promise<number> | undefined;

/** Starts LiteRT where it has not started yet; gives its threads. */
export function start(): Promise<number> {
  started ??= load().catch((error: unknown) => {
    // A broken connection may be whole the next time.
    started = undefined;
    throw error;
  });
  return started;
}

async function load(): Promise<number> {
  // Threads share memory, which browsers give to isolated pages alone.
  const threads =
    self.crossOriginIsolated &&
    (await supportsFeature("threads")) &&
    (await supportsFeature("relaxedSimd"));
  await loadLiteRt(new URL("wasm/", document.baseURI).href, { threads });
  return threads ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
}

/** Compiles a .tflite file. */
export async function compile(content: Uint8Array): Promise<CompiledModel> {
  const numThreads = await start();
  return loadAndCompile(content, { accelerator: "wasm", cpuOptions: { numThreads } });
}

/** Runs a model on one input; outputs by name, copied out of LiteRT's memory. */
export async function run(
  model: CompiledModel,
  input: Float32Array | Uint8Array,
  shape: number[],
): Promise<Record<string, Float32Array | Uint8Array>> {
  const name = model.getInputDetails()[0]!.name;
  const tensor = new Tensor(input as Float32Array<ArrayBuffer>, shape);
  try {
    const outputs = await model.run({ [name]: tensor });
    const found: Record<string, Float32Array | Uint8Array> = {};
    for (const [output, values] of Object.entries(outputs)) {
      found[output] = values.toTypedArray().slice() as Float32Array | Uint8Array;
      values.delete();
    }
    return found;
  } finally {
    tensor.delete();
  }
}
