// A model on this page's own server: OpenAI's chat as server-sent events, /v1/suggest, an API key where one is set.

import { byId } from "./dom.js";

const KEY = "keylm-key";

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = detail?.code;
  }
}

export class Server {
  #name = "";
  #context = Infinity;
  #dialog = null;

  /** Return the model's name and context, and where it runs. Throws ApiError. */
  async open() {
    const [model] = (await (await this.#call("v1/models")).json()).data;
    [this.#name, this.#context] = [model.id, model.max_model_len];
    return { name: model.id, context: model.max_model_len, place: "on the server" };
  }

  /** Yield {text} as it is written, then {reason, tokens}. Throws ApiError; AbortError where `signal` fires. */
  async *chat(messages, settings, signal) {
    const longest = Math.min(settings.max_tokens ?? Infinity, this.#context >> 1); // room for the question
    const options = { ...settings, max_tokens: longest, stream: true, stream_options: { include_usage: true } };
    const body = { model: this.#name, messages, ...options };
    for await (const event of events(await this.#answer(body, signal))) {
      if (event.error) throw new ApiError(200, event.error);
      const [choice] = event.choices;
      if (choice?.delta?.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) yield { reason: choice.finish_reason };
      if (event.usage) yield { tokens: event.usage.completion_tokens };
    }
  }

  /** Return the answer of /v1/suggest for the text before the cursor. Throws ApiError. */
  async suggest(text) {
    return (await this.#call("v1/suggest", { text, k: 3 })).json();
  }

  /** Request an answer; where max_tokens does not fit the context, leave the length to the server. */
  async #answer(body, signal) {
    try {
      return await this.#call("v1/chat/completions", body, signal);
    } catch (error) {
      if (error.code !== "context_length_exceeded" || body.max_tokens === undefined) throw error;
      return this.#call("v1/chat/completions", { ...body, max_tokens: undefined }, signal);
    }
  }

  async #call(path, body, signal) {
    const key = sessionStorage.getItem(KEY);
    const headers = {
      ...(key && { Authorization: `Bearer ${key}` }),
      ...(body && { "Content-Type": "application/json" }),
    };
    const answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
    });
    if (answer.status === 401) {
      await this.#askForKey(key);
      return this.#call(path, body, signal);
    }
    if (!answer.ok) throw new ApiError(answer.status, (await answer.json().catch(() => null))?.error);
    return answer;
  }

  /** Wait for a key other than `refused`; concurrent calls wait for the same dialog. */
  #askForKey(refused) {
    if (sessionStorage.getItem(KEY) !== refused) return Promise.resolve();
    this.#dialog ??= new Promise((resolve) => {
      const dialog = byId("key-dialog");
      if (refused) byId("key-why").textContent = "That key was not accepted.";
      byId("api-key").value = "";
      dialog.addEventListener("cancel", (event) => event.preventDefault());
      byId("key-form").addEventListener(
        "submit",
        () => {
          sessionStorage.setItem(KEY, byId("api-key").value.trim());
          this.#dialog = null;
          resolve();
        },
        { once: true },
      );
      dialog.showModal();
    });
    return this.#dialog;
  }
}

/** Yield the JSON of each server-sent event of an answer, up to [DONE]. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: ?/, "");
        if (data === "[DONE]") continue; // the stream ends next
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
