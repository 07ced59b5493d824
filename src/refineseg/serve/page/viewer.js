// A pane: a picture with the colours of its classes over it, zoomed, moved, wiped. Panes that share a View move together.

const BACKGROUND = /^\s*(background|_background_|bg)\s*$/i; // what lies behind all objects is seen as it is
const MOST_OVERLAY = 8e6; // pixels of the coloured layer; larger pictures are coloured every second, third, ... pixel
const MOST_ZOOM = 64;

/** What part of the picture is seen: a zoom of 1 shows everything; the centre is a fraction of the sides. */
export class View extends EventTarget {
  zoom = 1;
  x = 0.5;
  y = 0.5;
  wipe = null; // share of the pane's width that shows the picture alone; null: no wipe
  opacity = 0.55;
  chosen = null; // the one class that is shown; null: all

  set(changes) {
    Object.assign(this, changes);
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom));
    this.dispatchEvent(new Event("change"));
  }
}

export class Pane {
  /** @param {(where: null | {index: number, sure: number | null, x: number, y: number}) => void} pointed */
  constructor(figure, view, pointed) {
    this.figure = figure;
    this.view = view;
    this.pointed = pointed;
    this.canvas = figure.querySelector("canvas");
    this.divider = figure.querySelector(".divider");
    this.context = this.canvas.getContext("2d");
    this.picture = this.result = this.layer = null;
    new ResizeObserver(() => this.#resize()).observe(this.canvas);
    view.addEventListener("change", () => this.#changed());
    this.#listen();
  }

  /** @param picture {bitmap}; without a result it is shown alone. @param linked whether the chosen class is one of its own. */
  show(picture, result, classes, linked = true) {
    Object.assign(this, { picture, result, classes, linked });
    this.size = result ?? picture.bitmap ?? { width: 1, height: 1 };
    this.#paintLayer();
    this.draw();
  }

  /** The coloured layer: every class in its colour; void, background and classes that are not chosen see-through. */
  #paintLayer() {
    this.layer = null;
    if (!this.result) return;
    const chosen = (this.painted = this.#chosen());
    const { width, height, mask } = this.result;
    const step = Math.ceil(Math.sqrt((width * height) / MOST_OVERLAY));
    const [w, h] = [Math.ceil(width / step), Math.ceil(height / step)];
    const table = new Uint32Array(65536);
    this.classes.forEach(({ name, colour: [red, green, blue] }, i) => {
      const all = chosen === null && !(this.picture.bitmap && BACKGROUND.test(name));
      if (all || chosen === i) table[i] = (255 << 24) | (blue << 16) | (green << 8) | red;
    });
    const pixels = new Uint32Array(w * h);
    for (let y = 0, to = 0; y < h; y++) {
      for (let x = 0, from = y * step * width; x < w; x++, from += step) pixels[to++] = table[mask[from]];
    }
    this.layer = new OffscreenCanvas(w, h);
    this.layer.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), w, h), 0, 0);
  }

  #chosen() {
    return this.linked ? this.view.chosen : null;
  }

  #changed() {
    if (this.layer && this.painted !== this.#chosen()) this.#paintLayer();
    this.draw();
  }

  #resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    this.draw();
  }

  /** Scale and place of the picture on the canvas, in its own pixels; the picture never leaves the pane. */
  #frame() {
    const { width, height } = this.canvas;
    const fit = Math.min(width / this.size.width, height / this.size.height);
    const scale = fit * this.view.zoom;
    const [w, h] = [this.size.width * scale, this.size.height * scale];
    const inside = (centre, side, room) => (side <= room ? 0.5 : Math.min(1 - room / side / 2, Math.max(room / side / 2, centre)));
    this.view.x = inside(this.view.x, w, width);
    this.view.y = inside(this.view.y, h, height);
    return { scale, left: width / 2 - this.view.x * w, top: height / 2 - this.view.y * h, w, h };
  }

  draw() {
    const { context, canvas, view } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    this.divider.hidden = view.wipe === null || !this.layer;
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    if (!this.picture || !canvas.width) return;
    const { scale, left, top, w, h } = this.#frame();
    context.imageSmoothingEnabled = scale < 2;
    context.imageSmoothingQuality = "high";
    if (this.picture.bitmap) context.drawImage(this.picture.bitmap, left, top, w, h);
    if (!this.layer) return;
    context.save();
    if (view.wipe !== null) {
      const begin = view.wipe * canvas.width;
      context.beginPath();
      context.rect(begin, 0, canvas.width - begin, canvas.height);
      context.clip();
      this.divider.style.left = `${100 * view.wipe}%`;
      this.divider.setAttribute("aria-valuenow", Math.round(100 * view.wipe));
    }
    context.globalAlpha = this.picture.bitmap ? view.opacity : 1;
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(this.layer, left, top, w, h);
    context.restore();
    if (this.canvas.matches(":focus-visible")) this.#drawCross();
  }

  #drawCross() {
    const { context, canvas } = this;
    const [x, y, r] = [canvas.width / 2, canvas.height / 2, 9 * (window.devicePixelRatio || 1)];
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(x - r, y);
      context.lineTo(x + r, y);
      context.moveTo(x, y - r);
      context.lineTo(x, y + r);
      context.stroke();
    }
  }

  /** The class at a place of the pane, in CSS pixels; null outside of the picture. */
  at(cssX, cssY) {
    if (!this.result) return null;
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const { scale, left, top } = this.#frame();
    const x = Math.floor((cssX * ratio - left) / scale), y = Math.floor((cssY * ratio - top) / scale);
    if (x < 0 || y < 0 || x >= this.size.width || y >= this.size.height) return null;
    const place = y * this.size.width + x;
    return { index: this.result.mask[place], sure: this.result.confidence ? this.result.confidence[place] / 255 : null, x: cssX, y: cssY };
  }

  middle() {
    return this.at(this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
  }

  /** Zoom so that the place under (cssX, cssY) stays where it is. */
  zoomAt(factor, cssX = this.canvas.clientWidth / 2, cssY = this.canvas.clientHeight / 2) {
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const { scale, left, top, w, h } = this.#frame();
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.view.zoom * factor));
    const change = zoom / this.view.zoom;
    const [x, y] = [(cssX * ratio - left) / w, (cssY * ratio - top) / h];
    const centre = (at, middle, room) => at + (middle - room * ratio) / (scale * change);
    this.view.set({
      zoom,
      x: centre(x * this.size.width, this.canvas.width / 2, cssX) / this.size.width,
      y: centre(y * this.size.height, this.canvas.height / 2, cssY) / this.size.height,
    });
  }

  moveBy(cssX, cssY) {
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const { w, h } = this.#frame();
    this.view.set({ x: this.view.x - (cssX * ratio) / w, y: this.view.y - (cssY * ratio) / h });
  }

  #listen() {
    const { canvas, divider } = this;
    const fingers = new Map();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, event);
      if (event.pointerType !== "touch" || this.view.zoom > 1) canvas.setPointerCapture(event.pointerId);
      if (event.pointerType === "touch") this.#point(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (before && fingers.size === 1 && this.view.zoom > 1) this.moveBy(event.clientX - before.clientX, event.clientY - before.clientY);
      if (before && fingers.size === 2) this.#pinch(fingers, event);
      if (before) fingers.set(event.pointerId, event);
      this.#point(event);
    });
    for (const kind of ["pointerup", "pointercancel", "pointerleave"]) {
      canvas.addEventListener(kind, (event) => {
        fingers.delete(event.pointerId);
        if (kind !== "pointerup") this.pointed(null, this);
      });
    }
    canvas.addEventListener("dblclick", (event) => this.zoomAt(2, event.offsetX, event.offsetY));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, () => this.draw());
    canvas.addEventListener("blur", () => this.pointed(null, this));
    const wipeTo = (event) => {
      const box = this.figure.getBoundingClientRect();
      this.view.set({ wipe: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) });
    };
    divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
    divider.addEventListener("pointermove", (event) => divider.hasPointerCapture(event.pointerId) && wipeTo(event));
    divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.view.set({ wipe: Math.min(1, Math.max(0, this.view.wipe + step)) });
    });
  }

  #pinch(fingers, event) {
    const [a, b] = [...fingers.values()];
    const other = a.pointerId === event.pointerId ? b : a;
    const before = fingers.get(event.pointerId);
    const apart = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top];
    if (apart(before) > 0) this.zoomAt(apart(event) / apart(before), x, y);
  }

  #point(event) {
    this.pointed(this.at(event.offsetX, event.offsetY), this);
  }

  #key(event) {
    const step = 40;
    const action = {
      ArrowLeft: () => this.moveBy(step, 0), ArrowRight: () => this.moveBy(-step, 0),
      ArrowUp: () => this.moveBy(0, step), ArrowDown: () => this.moveBy(0, -step),
      "+": () => this.zoomAt(1.5), "=": () => this.zoomAt(1.5), "-": () => this.zoomAt(1 / 1.5),
      0: () => this.view.set({ zoom: 1, x: 0.5, y: 0.5 }),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
    this.draw();
    this.pointed(this.middle(), this, true);
  }
}
