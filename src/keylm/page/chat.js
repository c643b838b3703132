// The chat view: streamed answers that can be stopped, and folded settings.

import { byId, make, said } from "./dom.js";

const EXAMPLES = ["Hello! Who are you?", "Tell me a story about a fox.", "What can I cook with eggs?"];
const NUMBERS = ["temperature", "top_p", "repetition_penalty", "max_tokens"];

export class Chat {
  #source;
  #turns = [];
  #running = null;

  constructor(source) {
    this.#source = source;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    const message = byId("message");
    message.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    });
    message.addEventListener("input", grow);
    byId("stop").addEventListener("click", () => this.#running?.abort());
    byId("composer").addEventListener("keydown", (event) => event.key === "Escape" && this.#running?.abort());
    byId("new-chat").addEventListener("click", () => this.#new());
    for (const text of EXAMPLES) {
      const button = make("button", { type: "button", textContent: text });
      button.addEventListener("click", () => this.#send(text));
      byId("examples").append(make("li", {}, button));
    }
  }

  /** Called when the view is opened. */
  shown() {
    if (matchMedia("(hover: hover)").matches) byId("message").focus({ preventScroll: true });
  }

  #new() {
    this.#running?.abort();
    this.#running = null;
    this.#turns = [];
    this.#busy(false);
    byId("messages").replaceChildren(byId("welcome"));
    byId("welcome").hidden = false;
    byId("speed").textContent = "";
    byId("message").focus();
  }

  async #send(text = byId("message").value) {
    const message = text.trim();
    if (!message || this.#running) return;
    const settings = chosen();
    if (!settings) return;
    byId("message").value = "";
    grow();
    byId("welcome").hidden = true;
    this.#turns.push({ role: "user", content: message });
    bubble("user", message);
    byId("speed").textContent = "";
    await this.#answer(settings);
  }

  async #answer(settings) {
    const running = (this.#running = new AbortController());
    const turns = this.#turns;
    const system = byId("system").value.trim();
    const shown = bubble("assistant", "");
    shown.dataset.busy = "";
    this.#busy(true);
    const written = new Written(shown);
    try {
      const messages = [...(system ? [{ role: "system", content: system }] : []), ...turns];
      for await (const event of this.#source.chat(messages, settings, running.signal)) {
        if (running.signal.aborted) break;
        written.take(event);
      }
    } catch (error) {
      if (!running.signal.aborted) written.fail(error);
    }
    if (this.#running !== running) return; // a new chat has started
    this.#running = null;
    delete shown.dataset.busy;
    written.end(running.signal.aborted);
    if (written.text) {
      turns.push({ role: "assistant", content: written.text });
    } else {
      const { content } = turns.pop();
      byId("message").value ||= content; // to be sent again
    }
    this.#busy(false);
  }

  #busy(busy) {
    const within = byId("composer").contains(document.activeElement);
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    byId("messages").setAttribute("aria-busy", String(busy));
    if (within && !busy) byId("message").focus({ preventScroll: true });
  }
}

/** An answer while it is written. */
class Written {
  text = "";
  #shown;
  #first = 0;
  #reason = "";
  #tokens = 0;
  #failed = false;

  constructor(shown) {
    this.#shown = shown;
  }

  take({ text, reason, tokens }) {
    if (text) {
      this.#first ||= performance.now();
      this.text += text;
      const follows = atEnd();
      this.#shown.textContent = this.text;
      if (follows) toEnd();
    }
    this.#reason = reason ?? this.#reason;
    this.#tokens = tokens ?? this.#tokens;
  }

  fail(error) {
    this.#failed = true;
    byId("messages").append(make("p", { className: "fault", role: "alert", textContent: said(error) }));
    toEnd();
  }

  end(stopped) {
    if (!this.text) {
      if (this.#failed) this.#shown.parentElement.remove();
      else this.#shown.replaceWith(note(stopped ? "stopped" : "the model said nothing"));
    } else if (stopped || this.#reason === "length") {
      this.#shown.after(note(stopped ? "stopped" : "cut off at the longest length"));
    }
    const seconds = (performance.now() - this.#first) / 1000;
    byId("speed").textContent =
      this.#tokens > 1 && this.#first
        ? `${this.#tokens} tokens · ${Math.round((this.#tokens - 1) / seconds)} a second`
        : "";
    toEnd();
  }
}

/** Return the settings; null, with the error shown, where one is out of bounds. */
function chosen() {
  const faulty = NUMBERS.map(byId).find((input) => !input.checkValidity());
  if (faulty) {
    byId("settings").open = true;
    faulty.reportValidity();
    return null;
  }
  const values = NUMBERS.map((name) => [name, byId(name).valueAsNumber]);
  return Object.fromEntries(values.filter(([, value]) => Number.isFinite(value)));
}

function bubble(role, text) {
  const who = make("span", { className: "unseen", textContent: role === "user" ? "You:" : "Model:" });
  const content = make("p", { textContent: text });
  byId("messages").append(make("div", { className: `turn ${role}` }, who, content));
  toEnd();
  return content;
}

function note(text) {
  return make("small", { textContent: text });
}

function atEnd() {
  const box = byId("messages");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

function toEnd() {
  byId("messages").scrollTop = byId("messages").scrollHeight;
}

/** Make the message box as high as its text. */
function grow() {
  const box = byId("message");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 160)}px`;
}
