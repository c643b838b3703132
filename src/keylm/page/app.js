// The page's entry point: which model answers, and which of the two views is shown.

import { Chat } from "./chat.js";
import { Keyboard } from "./keyboard.js";
import { LANGUAGE } from "./language.js";
import { Local } from "./local.js";
import { Server } from "./server.js";
import { byId, make, said } from "./dom.js";

const TABS = ["chat", "keyboard"];

/** Return the model to ask: that of the page's own server or, in a static folder, one in this browser. */
function backend() {
  const setting = (name) => document.querySelector(`meta[name="keylm-${name}"]`)?.content;
  const models = setting("models");
  return models ? new Local(models, setting("transformers"), showProgress) : new Server();
}

function showProgress({ loaded, total, done }) {
  byId("loading").hidden = Boolean(done);
  for (const part of document.querySelectorAll("header, main")) part.inert = !done;
  const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
  byId("progress").value = total ? loaded / total : 0;
  byId("loading-text").textContent = total ? `${megabytes(loaded)} of ${megabytes(total)} MB` : "";
}

function show(name, views) {
  for (const tab of TABS) {
    const chosen = tab === name;
    byId(`panel-${tab}`).hidden = !chosen; // no id that is also an address, which would take the focus
    const button = byId(`tab-${tab}`);
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
  document.body.dataset.view = name;
  views[name].shown();
}

function tabs(views) {
  const open = (name) => history.replaceState(null, "", `#${name}`) ?? show(name, views);
  for (const [place, name] of TABS.entries()) {
    const button = byId(`tab-${name}`);
    button.addEventListener("click", () => open(name));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = TABS[(place + step + TABS.length) % TABS.length];
      open(next);
      byId(`tab-${next}`).focus();
    });
  }
  const named = () => (TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat");
  addEventListener("hashchange", () => show(named(), views));
  show(named(), views);
}

async function start() {
  const source = backend();
  const views = { chat: new Chat(source), keyboard: new Keyboard(source, LANGUAGE) };
  tabs(views);
  try {
    const { name, context, place } = await source.open();
    document.title = `${name} · keylm`;
    byId("where").replaceChildren(name, make("span", {}, ` · ${place}`));
    byId("where").title = `${name}, ${place}; context: ${context.toLocaleString("en")} tokens`;
    views[document.body.dataset.view].shown();
  } catch (error) {
    showProgress({ done: true });
    byId("where").textContent = said(error);
    document.body.dataset.failed = "";
  }
}

start();
