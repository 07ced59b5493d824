// Outlines of the regions of a mask, along the borders of pixels, as GeoJSON: x to the right, y down, in pixels.

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up

/** Connected regions of one class: pixels that share a side. */
function regionsOf({ mask, width, height }) {
  const region = new Int32Array(mask.length).fill(-1), firsts = [], stack = [];
  for (let start = 0; start < mask.length; start++) {
    if (region[start] >= 0) continue;
    const own = firsts.push(start) - 1, value = mask[start];
    region[start] = own;
    stack.push(start);
    while (stack.length) {
      const at = stack.pop(), x = at % width;
      for (const next of [x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1, at - width, at + width]) {
        if (next >= 0 && next < mask.length && region[next] < 0 && mask[next] === value) {
          region[next] = own;
          stack.push(next);
        }
      }
    }
  }
  return { region, firsts };
}

/** {width, height, mask} -> FeatureCollection, one polygon with holes per region. */
export function outlinesOf(result, classes) {
  const { width, height, mask } = result;
  const { region, firsts } = regionsOf(result);
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? region[y * width + x] : -1);
  // Sides of pixels with the own region on the right hand: one bit per direction and corner has been walked.
  const walked = new Uint8Array((width + 1) * (height + 1));
  const isBorder = (x, y, way, own) => {
    const right = [[0, 0], [-1, 0], [-1, -1], [0, -1]][way], left = [[0, -1], [0, 0], [-1, 0], [-1, -1]][way];
    return at(x + right[0], y + right[1]) === own && at(x + left[0], y + left[1]) !== own;
  };
  const rings = firsts.map(() => []);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const own = region[y * width + x];
      for (const [cornerX, cornerY, way] of [[x, y, 0], [x + 1, y + 1, 2]]) {
        if (!isBorder(cornerX, cornerY, way, own) || walked[cornerY * (width + 1) + cornerX] & (1 << way)) continue;
        rings[own].push(walk(cornerX, cornerY, way, own));
      }
    }
  }

  function walk(startX, startY, startWay, own) {
    const ring = [];
    let [x, y, way] = [startX, startY, startWay];
    do {
      walked[y * (width + 1) + x] |= 1 << way;
      x += STEPS[way][0];
      y += STEPS[way][1];
      const next = [1, 0, 3].map((turn) => (way + turn) % 4).find((other) => isBorder(x, y, other, own));
      if (next !== way) ring.push([x, y]);
      way = next;
    } while (x !== startX || y !== startY || way !== startWay);
    ring.push(ring[0]);
    return ring;
  }

  const areaOf = (ring) => ring.slice(1).reduce((sum, [x, y], i) => sum + ring[i][0] * y - x * ring[i][1], 0) / 2;
  const features = [];
  firsts.forEach((first, own) => {
    const known = classes[mask[first]];
    if (!known) return; // void
    const coordinates = rings[own].toSorted((a, b) => Math.abs(areaOf(b)) - Math.abs(areaOf(a)));
    const area = coordinates.reduce((sum, ring) => sum + areaOf(ring), 0);
    const colour = `#${known.colour.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
    const properties = { class: known.name, class_index: known.index, colour, area };
    features.push({ type: "Feature", properties, geometry: { type: "Polygon", coordinates } });
  });
  return { type: "FeatureCollection", coordinates: "pixels, x to the right, y down", features };
}
