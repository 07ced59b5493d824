// A picture as the browser decodes it: upright, its colours as they are stored.

const AS_STORED = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** Blob -> ImageBitmap, or null where the browser does not know this kind of file. */
export async function decoded(blob) {
  try {
    return await createImageBitmap(blob, AS_STORED);
  } catch {
    return null;
  }
}

/** ImageBitmap -> RGBA bytes. */
export function pixelsOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}
