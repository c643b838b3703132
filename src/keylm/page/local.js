// A model in this browser: worker.js computes, this sends it questions and receives the answers.

export class Local {
  #models;
  #library;
  #progress;
  #worker;
  #waiting = new Map();
  #next = 0;
  #opened;
  #ready = new Promise((resolve, reject) => (this.#opened = { resolve, reject }));

  /** Take addresses of models.json and of transformers.js; `progress` is called with {loaded, total, done}. */
  constructor(models, library, progress) {
    [this.#models, this.#library, this.#progress] = [models, library, progress];
    this.#ready.catch(() => {}); // open() reports it too
  }

  /** Return the model's name and context, and where it runs. */
  async open() {
    try {
      const found = await this.#load();
      this.#opened.resolve();
      return found;
    } catch (error) {
      this.#opened.reject(error);
      throw error;
    }
  }

  async #load() {
    const query = new URLSearchParams(location.search);
    const listed = await (await fetch(this.#models)).json();
    const model = listed.find(({ name }) => name === query.get("model")) ?? listed[0];
    const absolute = (address) => new URL(address, document.baseURI).href;
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#worker.addEventListener("message", ({ data }) => this.#waiting.get(data.id)?.(data));
    this.#worker.addEventListener("error", (event) => {
      const error = event.message || "the worker could not be started";
      for (const hand of this.#waiting.values()) hand({ error });
    });
    const settings = {
      model,
      models: absolute("models/"),
      library: absolute(this.#library),
      device: query.get("device"),
    };
    for await (const event of this.#ask("open", settings)) {
      if (event.loaded !== undefined) this.#progress(event);
      if (event.context) {
        this.#progress({ done: true });
        return { name: model.name, context: event.context, place: `in this browser (${event.device})` };
      }
    }
    throw new Error("the model was not loaded");
  }

  /** Yield {text} as it is written, then {reason, tokens}. */
  async *chat(messages, settings, signal) {
    await this.#ready;
    const stop = () => this.#worker.postMessage({ kind: "stop" });
    signal.addEventListener("abort", stop);
    try {
      yield* this.#ask("chat", { messages, settings });
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /** Return words for the text before the cursor, as /v1/suggest does. */
  async suggest(text) {
    await this.#ready;
    for await (const answer of this.#ask("suggest", { text })) return answer;
    throw new Error("the worker gave no answer");
  }

  /** Yield the worker's answers to a question, up to the last. */
  async *#ask(kind, body) {
    const id = this.#next++;
    const arrived = [];
    let wake = () => {};
    this.#waiting.set(id, (answer) => {
      arrived.push(answer);
      wake();
    });
    this.#worker.postMessage({ id, kind, ...body });
    try {
      for (;;) {
        while (!arrived.length) await new Promise((resolve) => (wake = resolve));
        const { error, ended, answer } = arrived.shift();
        if (error) throw new Error(error);
        if (ended) return;
        yield answer;
      }
    } finally {
      this.#waiting.delete(id);
    }
  }
}
