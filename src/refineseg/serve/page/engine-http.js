// The engine that asks the service. An engine has: isLocal, describe(), segment(picture, model), outlines(picture, model).
// A picture is {blob, bitmap}; a result is {width, height, mask, confidence, maskFile, notes}.

import { readValues } from "./png.js";

export class HttpEngine {
  isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

  /** @param {(wrong: boolean) => Promise<string>} askToken is called when the service asks for a token, or for another. */
  constructor(askToken) {
    this.askToken = askToken;
    this.token = "";
  }

  async #fetch(address, options = {}) {
    for (;;) {
      const token = this.token;
      const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
      let response;
      try {
        response = await fetch(address, { ...options, headers, cache: "no-store" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        await options.body?.slice(0, 1).arrayBuffer().catch(() => {
          throw new Error("The file cannot be read: it is a folder, or it was changed or removed meanwhile. Open it again.");
        });
        throw new Error("The service does not answer. Is it still running?");
      }
      if (response.ok) return response;
      if (response.status === 401) {
        if (token !== this.token) continue; // another request was given one meanwhile
        this.token = await this.askToken(Boolean(token));
        if (this.token) continue;
      }
      const told = await response.json().catch(() => ({}));
      throw new Error(told.error ?? `The service failed (status ${response.status}).`);
    }
  }

  async describe() {
    const found = await (await this.#fetch("v1/models")).json();
    this.limits = found.limits;
    return found;
  }

  #post(picture, model, output, signal) {
    const { blob } = picture;
    if (blob.size > this.limits.bytes) {
      throw new Error(`The file is larger than ${Math.floor(this.limits.bytes / 1e6)} MB. Shrink or compress it first.`);
    }
    const query = new URLSearchParams({ model, output });
    return this.#fetch(`v1/segment?${query}`, {
      method: "POST", body: blob, headers: { "content-type": "application/octet-stream" }, signal,
    });
  }

  async segment(picture, model, signal) {
    const scored = model.outputs.includes("confidence"); // an exported file may give classes only
    const response = await this.#post(picture, model.name, scored ? "mask,confidence" : "mask", signal);
    const notes = response.headers.get("x-note");
    const parts = scored ? await response.formData() : new Map([["mask", await response.blob()]]);
    const maskFile = parts.get("mask");
    const [mask, confidence] = await Promise.all([readValues(maskFile), scored ? readValues(parts.get("confidence")) : null]);
    return {
      width: mask.width, height: mask.height, mask: mask.values, confidence: confidence?.values ?? null, maskFile, notes,
    };
  }

  async outlines(picture, model) {
    return (await this.#post(picture, model.name, "polygons")).blob();
  }
}
