// The decoder in the browser: onnxruntime-web, one thread. z is reached by the random numbers that would draw it.
import * as ort from "./ort.wasm.min.mjs";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
let session, noise;
export async function ask(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing in this folder.`);
  return answer.json();
}
export async function open(scene) {
  noise = scene.noise;
  session = await ort.InferenceSession.create("./decoder.onnx", { executionProviders: ["wasm"] });
}
export async function decode(z) {
  const gap = z.map((v, j) => v - noise.mean[j]);
  const normal = Float32Array.from(noise.inverse, row => row.reduce((sum, v, j) => sum + v * gap[j], 0));
  const made = await session.run({
    uniform: new ort.Tensor("float64", Float64Array.of(noise.uniform), [1]),
    normal: new ort.Tensor("float32", normal, [1, noise.columns]),
  });
  return { x: { values: [...made.x.data] }, z: [...made.z.data], log_ratio: null };
}
