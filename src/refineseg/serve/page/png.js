// PNG files of one value per pixel, read and written to the last bit; a canvas would give colours in place of values.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

async function through(bytes, stream) {
  const written = new Response(new Blob([bytes]).stream().pipeThrough(stream));
  return new Uint8Array(await written.arrayBuffer());
}

/** Blob of a palette or grey PNG of 8 or 16 bits -> {width, height, values}. */
export async function readValues(blob) {
  const file = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(file.buffer);
  const packed = [];
  let width = 0, height = 0, bytesPerPixel = 0;
  for (let at = 8; at + 8 <= file.length;) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const body = at + 8;
    if (kind === "IHDR") {
      width = view.getUint32(body);
      height = view.getUint32(body + 4);
      const [bits, colours, , , interlaced] = file.subarray(body + 8, body + 13);
      if (![0, 3].includes(colours) || ![8, 16].includes(bits) || interlaced) throw new Error("not a mask");
      bytesPerPixel = bits / 8;
    } else if (kind === "IDAT") packed.push(file.subarray(body, body + length));
    at = body + length + 4;
  }
  const rows = await through(new Blob(packed), new DecompressionStream("deflate"));
  const stride = width * bytesPerPixel;
  const pixels = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    unfilter(rows[y * (stride + 1)], rows.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1)), pixels, y * stride, stride, bytesPerPixel);
  }
  if (bytesPerPixel === 1) return { width, height, values: pixels };
  const values = new Uint16Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = (pixels[2 * i] << 8) | pixels[2 * i + 1];
  return { width, height, values };
}

function unfilter(filter, row, out, start, stride, step) {
  const above = start - stride;
  for (let i = 0; i < stride; i++) {
    const left = i >= step ? out[start + i - step] : 0;
    const up = start ? out[above + i] : 0;
    const corner = start && i >= step ? out[above + i - step] : 0;
    let guess = 0;
    if (filter === 1) guess = left;
    else if (filter === 2) guess = up;
    else if (filter === 3) guess = (left + up) >> 1;
    else if (filter === 4) {
      const a = Math.abs(up - corner), b = Math.abs(left - corner), c = Math.abs(left + up - 2 * corner);
      guess = a <= b && a <= c ? left : b <= c ? up : corner;
    }
    out[start + i] = row[i] + guess;
  }
}

const CRC = new Uint32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(kind, body) {
  const out = new Uint8Array(body.length + 12), view = new DataView(out.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) out[4 + i] = kind.charCodeAt(i);
  out.set(body, 8);
  let crc = -1;
  for (let i = 4; i < out.length - 4; i++) crc = CRC[(crc ^ out[i]) & 255] ^ (crc >>> 8);
  view.setUint32(out.length - 4, ~crc);
  return out;
}

/** Mask values -> Blob of a PNG: with a palette for bytes, 16-bit grey for larger values. */
export async function writeValues(values, width, height, colours) {
  const wide = values instanceof Uint16Array;
  const header = new Uint8Array(13), view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([wide ? 16 : 8, wide ? 0 : 3, 0, 0, 0], 8);
  const stride = width * (wide ? 2 : 1);
  const rows = new Uint8Array((stride + 1) * height);
  for (let y = 0; y < height; y++) {
    if (!wide) rows.set(values.subarray(y * width, (y + 1) * width), y * (stride + 1) + 1);
    else for (let x = 0; x < width; x++) {
      const value = values[y * width + x], at = y * (stride + 1) + 1 + 2 * x;
      rows[at] = value >> 8;
      rows[at + 1] = value & 255;
    }
  }
  const palette = new Uint8Array(768);
  colours.slice(0, 256).forEach((colour, i) => palette.set(colour, 3 * i));
  const packed = await through(rows, new CompressionStream("deflate"));
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", header), ...(wide ? [] : [chunk("PLTE", palette)])];
  return new Blob([...parts, chunk("IDAT", packed), chunk("IEND", new Uint8Array())], { type: "image/png" });
}
