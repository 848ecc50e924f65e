/** An exported network: the picture of a face in, predictions by name out. */
import type { CompiledModel } from "@litertjs/core";
import type { Picture } from "./crop";
import { type Description, ModelError, outputsOf, read } from "./metadata";
import { compile, run } from "./runtime";

/** By output name: values in the task's unit, or probabilities of its classes. */
export type Predictions = Record<string, number[]>;

export class Model {
  private constructor(
    readonly description: Description,
    private readonly compiled: CompiledModel,
  ) {}

  /**
   * Loads the content of a .tflite file.
   *
   * @throws ModelError if it is not whole, or LiteRT cannot run it.
   */
  static async load(content: Uint8Array): Promise<Model> {
    const description = await read(content);
    if (description.inputs.images.shape[0] !== 1) {
      throw new ModelError(
        "This model takes any number of images at once, which LiteRT cannot run in a " +
          "browser. Export it again without --dynamic_batch.",
      );
    }
    let compiled: CompiledModel | undefined;
    try {
      compiled = await compile(content);
      const names = compiled.getOutputDetails().map(({ name }) => name);
      const lacking = description.tasks.flatMap(outputsOf).filter((n) => !names.includes(n));
      if (lacking.length) {
        throw new ModelError(
          `Expected the outputs ${lacking.join(", ")} from this model; it has ` +
            `${names.join(", ")}. Its description is from another export: export again.`,
        );
      }
      const model = new Model(description, compiled);
      // The first run is the slowest and no measure; and what cannot run shall be
      // known now.
      await model.predict(black(description.image_size));
      return model;
    } catch (error) {
      compiled?.delete();
      if (error instanceof ModelError) throw error;
      throw new ModelError(
        `LiteRT cannot run this model: ${String(error)}. Export it again.`,
      );
    }
  }

  /** Predictions for a face of `image_size` pixels a side. */
  async predict(face: Picture): Promise<Predictions> {
    const { inputs, outputs, image_size: size } = this.description;
    // Levels are what the network takes; only their type differs by variant.
    const takesBytes = inputs.images.dtype === "uint8";
    const input = takesBytes ? face.levels : Float32Array.from(face.levels);
    const found = await run(this.compiled, input, [1, size, size, 3]);
    return Object.fromEntries(
      Object.entries(found).map(([name, values]) => {
        const { scale = 1, zero_point: zero = 0 } = outputs[name] ?? {};
        return [name, Array.from(values, (value) => (value - zero) * scale)];
      }),
    );
  }

  /** Gives LiteRT's memory back. */
  delete(): void {
    this.compiled.delete();
  }
}

function black(size: number): Picture {
  return { width: size, height: size, levels: new Uint8Array(3 * size * size) };
}
