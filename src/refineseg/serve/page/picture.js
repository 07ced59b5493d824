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

/** ImageBitmap -> RGBA bytes; transparent pixels keep the colours of the file where the browser has WebGL. */
export function pixelsOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const shown = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  for (let i = 3; i < shown.length; i += 4) if (shown[i] < 255) return storedPixels(bitmap) ?? shown;
  return shown;
}

/** A canvas multiplies colours by their opacity, a texture does not; null: it has no room, or there is no WebGL. */
function storedPixels(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const failed = gl.getError();
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : pixels;
}
