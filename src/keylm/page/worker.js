// Runs a model in the browser: transformers.js opens it, runner.js reads with it. Chat uses WebGPU where available,
// otherwise WebAssembly; suggestions always use WebAssembly, as their search keeps many small caches.

import { Reading, Tree, sample } from "./runner.js";
import { Channel } from "./channel.js";
import { chatIds, textIds } from "./chat_tokens.js";
import { NearWords } from "./correct.js";
import { LANGUAGE } from "./language.js";
import { answer } from "./suggest.js";
import { WordTokens } from "./words.js";

const CONTEXT = 128; // tokens before the cursor that the model attends to, at most; at least half of them
const LONGEST = 8; // tokens of room for the word

let session = null;
let stopped = false;

const answers = { open, chat, suggest };

addEventListener("message", async ({ data: { id, kind, ...body } }) => {
  if (kind === "stop") {
    stopped = true;
    return;
  }
  try {
    if (!session && kind !== "open") throw new Error("the model has not been loaded");
    for await (const answer of answers[kind](body)) postMessage({ id, answer });
    postMessage({ id, ended: true });
  } catch (error) {
    postMessage({ id, error: error?.message || String(error) });
  }
});

/** Load a model; yields {loaded, total} in bytes, then {context, device}. */
async function* open({ model, models, library, device: wanted }) {
  const transformers = await import(`${library}transformers.min.js`);
  let device = wanted ?? ((await navigator.gpu?.requestAdapter().catch(() => null)) ? "webgpu" : "wasm");
  await prepare(transformers.env, { model, models, library, device });
  const tokenizer = await transformers.AutoTokenizer.from_pretrained(model.name);
  const load = (on, progress_callback) => {
    const settings = { device: on, dtype: model.dtypes[on], progress_callback };
    return transformers.AutoModelForCausalLM.from_pretrained(model.name, settings);
  };
  let chatting;
  try {
    chatting = yield* withProgress((progress) => load(device, progress), model, device);
  } catch (error) {
    if (wanted || device === "wasm") throw error;
    device = "wasm"; // there is an adapter, but it does not run this model
    chatting = yield* withProgress((progress) => load(device, progress), model, device);
  }
  const vocabulary = await (await fetch(`${models}${model.name}/tokenizer.json`)).json();
  const tokens = [
    ...Object.entries(vocabulary.model.vocab),
    ...vocabulary.added_tokens.map(({ content, id }) => [content, id]),
  ];
  const words = new WordTokens(tokens, LANGUAGE);
  session = {
    tokenizer,
    special: new Map(vocabulary.added_tokens.filter((token) => token.special).map(({ content, id }) => [content, id])),
    context: chatting.config.max_position_embeddings,
    ends: endsOf(chatting, new Map(tokens)),
    start: new Map(tokens).get("<|endoftext|>") ?? 0,
    words,
    near: new NearWords(words, LANGUAGE, new Channel(LANGUAGE.mistakes)),
    chat: new Reading(chatting, transformers.Tensor),
    typing: null,
    openTyping: async () =>
      new Tree(new Reading(device === "wasm" ? chatting : await load("wasm"), transformers.Tensor)),
  };
  yield { context: session.context, device: device === "webgpu" ? "WebGPU" : "WebAssembly" };
}

/** Tell transformers.js where files are, and to load nothing else. */
async function prepare(env, { model, models, library, device }) {
  const localModelPath = new URL(models).pathname; // with the host in it, transformers.js 4.3.1 finds no tokenizer
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath, useWasmCache: false });
  const { wasm } = env.backends.onnx;
  const names = { mjs: "ort-wasm-simd-threaded.asyncify.mjs", wasm: "ort-wasm-simd-threaded.asyncify.wasm" };
  if (new URL(library).origin === location.origin) {
    wasm.wasmPaths = Object.fromEntries(Object.entries(names).map(([kind, name]) => [kind, library + name]));
  }
  if (device === "wasm") {
    // Half the size of the build for WebGPU.
    for (const [kind, path] of Object.entries(wasm.wasmPaths)) wasm.wasmPaths[kind] = path.replace(".asyncify", "");
  }
  // One cache for each version of a model: a new export is loaded anew.
  env.cacheKey = `keylm-${model.name}-${model.fingerprint}`;
  const old = typeof caches === "undefined" ? [] : await caches.keys();
  const stale = old.filter((key) => key.startsWith(`keylm-${model.name}-`) && key !== env.cacheKey);
  await Promise.all(stale.map((key) => caches.delete(key)));
}

async function* withProgress(load, model, device) {
  const total = model.files[`onnx/model_${{ q8: "quantized", q4: "q4" }[model.dtypes[device]]}.onnx`];
  let [loaded, done, wake] = [0, false, () => {}];
  const loading = load((event) => {
    if (event.status === "progress" && event.file?.endsWith(".onnx")) loaded = event.loaded;
    wake();
  }).finally(() => {
    done = true;
    wake();
  });
  loading.catch(() => {});
  while (!done) {
    yield { loaded, total };
    await new Promise((resolve) => (wake = resolve));
  }
  return loading;
}

function endsOf({ config, generation_config }, ids) {
  const named = ["<|im_end|>", "<|endoftext|>"].map((token) => ids.get(token));
  const all = [config.eos_token_id, generation_config?.eos_token_id, named];
  return new Set(all.flat().filter((id) => id !== undefined && id !== null));
}

/** Answer a conversation; yields {text}, then {reason, tokens}. */
async function* chat({ messages, settings }) {
  const { tokenizer, special, context, ends, chat: reading } = session;
  stopped = false;
  const render = (some) => tokenizer.apply_chat_template(some, { tokenize: false, add_generation_prompt: true });
  const ids = chatIds(messages, { special, render, encode });
  if (ids.length >= context) {
    const most = context.toLocaleString("en");
    throw new Error(`The conversation is longer than the ${most} tokens that the model can read; start a new chat.`);
  }
  const longest = Math.min(settings.max_tokens ?? Infinity, context - ids.length);
  const written = [];
  let [shown, reason] = ["", "length"];
  await reading.move(ids);
  while (written.length < longest && !stopped) {
    const token = sample(reading.logits, settings, reading.ids);
    if (ends.has(token)) {
      reason = "stop";
      break;
    }
    written.push(token);
    const text = tokenizer.decode(written, { skip_special_tokens: true });
    if (text.length > shown.length && !text.endsWith("\ufffd")) {
      yield { text: text.slice(shown.length) };
      shown = text;
    }
    await pause(); // lets a "stop" message in
    if (written.length < longest) await reading.go([token]);
  }
  yield { reason, tokens: written.length };
}

/** Yield what a keyboard shows after `text`, whose last letters are the word being typed. */
async function* suggest({ text }) {
  const begun = performance.now();
  session.typing ??= await session.openTyping();
  const { words: tokens, near } = session;
  const { partial, words, correction } = await answer(text, LANGUAGE, { tokens, near, encode: encodeWord, read });
  const suggestions = words.map(([word, value]) => ({ word, probability: Math.exp(value) }));
  yield { partial, suggestions, correction, milliseconds: performance.now() - begun };
}

/** Read a text; return the function from paths of tokens after it to the log-probabilities of the next one. */
async function read(before) {
  const { typing } = session;
  const context = Math.min(CONTEXT, session.context - LONGEST);
  const half = context >> 1;
  const ids = [session.start, ...(before.trim() ? textIds(before, session.special, encode) : [])];
  // Cut at multiples, so that the start stays the same for a while and the cache remains valid.
  await typing.move(ids.slice(Math.max(0, Math.ceil((ids.length - context) / half)) * half));
  return (paths) => typing.expect(paths);
}

function encodeWord(text) {
  return textIds(text, session.special, encode).slice(0, LONGEST);
}

function encode(text) {
  return session.tokenizer.encode(text, { add_special_tokens: false });
}

/** Let waiting messages in. */
function pause() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
