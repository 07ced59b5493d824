// ONNX Runtime Web in a thread: on a graphics card where the browser has WebGPU, else on the processor, with several
// threads where the page is cross-origin isolated. In: RGBA bytes. Out: class indices and confidence.

const MOST_SCORES = 2 ** 26; // values of the logits that are asked for; above, there is no confidence

let runtime = null;
const sessions = new Map();

async function loadRuntime(onGpu) {
  const ort = await import(onGpu ? "./runtime/ort.webgpu.min.mjs" : "./runtime/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  return { ort, onGpu };
}

async function hasGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

async function sessionOf(file) {
  runtime ??= await loadRuntime(await hasGpu());
  if (!sessions.has(file)) {
    const response = await fetch(file);
    if (!response.ok) throw new Error("The model cannot be loaded. Is the folder complete?");
    const providers = runtime.onGpu ? ["webgpu"] : ["wasm"];
    sessions.set(file, await runtime.ort.InferenceSession.create(await response.arrayBuffer(), { executionProviders: providers }));
  }
  return sessions.get(file);
}

async function run({ file, width, height, classes, void: unknown, pixels }) {
  const session = await sessionOf(file);
  const rgba = new Uint8Array(pixels), area = width * height;
  const planes = new Uint8Array(3 * area);
  for (let i = 0, j = 0; i < area; i++, j += 4) {
    planes[i] = rgba[j];
    planes[area + i] = rgba[j + 1];
    planes[2 * area + i] = rgba[j + 2];
  }
  const scored = area * classes <= MOST_SCORES;
  const feeds = { images: new runtime.ort.Tensor("uint8", planes, [1, 3, height, width]) };
  const found = await session.run(feeds, scored ? ["class_map", "logits"] : ["class_map"]);
  const map = await found.class_map.getData();
  const mask = map instanceof Uint8Array ? map.slice() : Uint16Array.from(map);
  const confidence = scored ? confidenceOf(await found.logits.getData(), mask, area, classes) : null;
  for (let i = 0; i < area; i++) if (rgba[4 * i + 3] === 0) mask[i] = unknown; // holds no data, as in the service
  for (const tensor of Object.values(found)) tensor.dispose();
  return { mask, confidence, how: runtime.onGpu ? "webgpu" : `wasm ${runtime.ort.env.wasm.numThreads}` };
}

/** Softmax of the likeliest class, 255 is certain. */
function confidenceOf(logits, mask, area, classes) {
  const sums = new Float32Array(area), confidence = new Uint8Array(area);
  for (let k = 0; k < classes; k++) {
    for (let i = 0, at = k * area; i < area; i++, at++) sums[i] += Math.exp(logits[at] - logits[mask[i] * area + i]);
  }
  for (let i = 0; i < area; i++) confidence[i] = Math.round(255 / sums[i]);
  return confidence;
}

/** Once more on the processor, where the graphics card fails. */
async function runAnywhere(request) {
  try {
    return await run(request);
  } catch (error) {
    if (!runtime?.onGpu) throw error;
    sessions.clear();
    runtime = await loadRuntime(false);
    return run(request);
  }
}

let last = Promise.resolve();
self.addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      const result = await runAnywhere(data);
      self.postMessage({ id: data.id, ...result }, [result.mask.buffer, ...(result.confidence ? [result.confidence.buffer] : [])]);
    } catch (error) {
      const short = /memory|allocat/i.test(String(error));
      self.postMessage({ id: data.id, error: short ? "This browser has too little memory for the picture. Shrink it." : `The model failed: ${error.message ?? error}` });
    }
  });
});
