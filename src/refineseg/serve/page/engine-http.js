// The engine that asks the service. An engine has: isLocal, describe(), segment(picture, model), outlines(picture, model).
// A picture is {blob, bitmap}; a result is {width, height, mask, confidence, maskFile, notes}.

import { readValues } from "./png.js";

export class HttpEngine {
  isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

  /** @param {() => Promise<string>} askToken is called when the service asks for a token. */
  constructor(askToken) {
    this.askToken = askToken;
    this.token = "";
  }

  async #fetch(address, options = {}) {
    for (;;) {
      const headers = { ...options.headers, ...(this.token && { authorization: `Bearer ${this.token}` }) };
      let response;
      try {
        response = await fetch(address, { ...options, headers, cache: "no-store" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Error("The service does not answer. Is it still running?");
      }
      if (response.ok) return response;
      if (response.status === 401) {
        this.token = await this.askToken();
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
    const response = await this.#post(picture, model.name, "mask,confidence", signal);
    const notes = response.headers.get("x-note");
    const parts = await response.formData();
    const [mask, confidence] = await Promise.all([readValues(parts.get("mask")), readValues(parts.get("confidence"))]);
    return {
      width: mask.width, height: mask.height, mask: mask.values, confidence: confidence.values,
      maskFile: parts.get("mask"), notes,
    };
  }

  async outlines(picture, model) {
    return (await this.#post(picture, model.name, "polygons")).blob();
  }
}
