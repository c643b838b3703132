// The ONNX model step by step: tokens in, predictions of the next token out, keys and values kept.

const PREFILL = 256; // tokens that are read at once
const TRIED = 400; // tokens that are kept after a text

/** A text that has been read: its tokens, their keys and values ({name: tensor}), the logits of the next one. */
export class Reading {
  ids = [];
  past = null;
  logits = null;
  #model;
  #Tensor;

  /** `model`: a causal language model of transformers.js; `Tensor`: its class of tensors. */
  constructor(model, Tensor) {
    [this.#model, this.#Tensor] = [model, Tensor];
  }

  /** Move to a text (at least one token); its common prefix with the last one is not read again. */
  async move(ids) {
    const common = same(ids, this.ids);
    if (common === ids.length && common === this.ids.length) return;
    const known = this.#cut(Math.min(common, ids.length - 1));
    for (let at = known; at < ids.length; at += PREFILL) await this.go(ids.slice(at, at + PREFILL));
  }

  /** Read more tokens. */
  async go(ids) {
    const { logits, past } = await this.#run([ids], this.ids.length + ids.length, this.past);
    drop(this.past);
    this.past = past;
    this.ids = [...this.ids, ...ids];
    this.logits = logits.at(-1);
  }

  /** Read one token after each of `parents` ({past, row}, all of one length); returns {past, logits: a row each}. */
  async branch(parents, tokens) {
    const past = gather(parents, this.#Tensor);
    const found = await this.#run(
      tokens.map((token) => [token]),
      lengthOf(past) + 1,
      past,
    );
    return { past: found.past, logits: found.logits };
  }

  /** Run rows of one length each; returns {past, logits: the last token's of each row}. */
  async #run(rows, length, past) {
    const numbers = (data, dims) => new this.#Tensor("int64", BigInt64Array.from(data, BigInt), dims);
    const output = await this.#model({
      input_ids: numbers(rows.flat(), [rows.length, rows[0].length]),
      attention_mask: numbers(new Array(rows.length * length).fill(1), [rows.length, length]),
      past_key_values: past,
    });
    const [, width, size] = output.logits.dims;
    const data = output.logits.data;
    const last = (row) => data.slice(((row + 1) * width - 1) * size, (row + 1) * width * size);
    const present = Object.entries(output).filter(([name]) => name.startsWith("present"));
    return {
      logits: rows.map((_, row) => last(row)),
      past: Object.fromEntries(present.map(([name, tensor]) => [name.replace("present", "past_key_values"), tensor])),
    };
  }

  /** Drop what was read after the first `length` tokens; returns how many are left: on a GPU all or none. */
  #cut(length) {
    if (length === this.ids.length) return length;
    const left = onGpu(this.past) ? 0 : length;
    drop(this.past);
    this.ids = this.ids.slice(0, left);
    this.past = left ? map(this.past, (tensor) => first(tensor, left, this.#Tensor)) : null;
    return left;
  }
}

/** Predictions after a text and a few more tokens, each read once while the text stays. */
export class Tree {
  #text;
  #known = new Map();

  constructor(reading) {
    this.#text = reading;
  }

  async move(ids) {
    const before = this.#text.ids;
    await this.#text.move(ids);
    if (before === this.#text.ids && this.#known.size < TRIED) return;
    const row = logSoftmax(this.#text.logits);
    this.#known = new Map([["", { past: this.#text.past, row: 0, expected: row }]]);
  }

  /** Return the next token's log-probabilities after paths of one length, whose prefixes were requested before. */
  async expect(paths) {
    const missing = paths.filter((path) => !this.#known.has(path.join()));
    if (missing.length) {
      const parents = missing.map((path) => this.#known.get(path.slice(0, -1).join()));
      const { past, logits } = await this.#text.branch(
        parents,
        missing.map((path) => path.at(-1)),
      );
      missing.forEach((path, row) => this.#known.set(path.join(), { past, row, expected: logSoftmax(logits[row]) }));
    }
    return paths.map((path) => this.#known.get(path.join()).expected);
  }
}

/** Return a token sampled from logits; `seen` are the tokens that the repetition penalty applies to. */
export function sample(logits, { temperature = 1, top_p = 1, repetition_penalty = 1 }, seen) {
  const weighed = Float32Array.from(logits);
  for (const id of new Set(seen)) weighed[id] *= weighed[id] < 0 ? repetition_penalty : 1 / repetition_penalty;
  const best = weighed.reduce((at, value, id) => (value > weighed[at] ? id : at), 0);
  if (temperature === 0) return best;
  const chances = weighed.map((value) => Math.exp((value - weighed[best]) / temperature));
  const order = [...chances.keys()].sort((left, right) => chances[right] - chances[left]);
  const whole = chances.reduce((sum, value) => sum + value, 0);
  const kept = [];
  for (let sum = 0; sum < top_p * whole && kept.length < order.length; sum += chances[kept.at(-1)])
    kept.push(order[kept.length]);
  let drawn = Math.random() * kept.reduce((sum, id) => sum + chances[id], 0);
  return kept.find((id) => (drawn -= chances[id]) < 0) ?? best;
}

/** Return the length of the longest common prefix. */
function same(left, right) {
  let length = 0;
  while (length < left.length && left[length] === right[length]) length++;
  return length;
}

function logSoftmax(logits) {
  const highest = logits.reduce((most, value) => Math.max(most, value), -Infinity);
  const sum = logits.reduce((total, value) => total + Math.exp(value - highest), 0);
  const shift = highest + Math.log(sum);
  return logits.map((value) => value - shift);
}

/** Return keys and values [rows, heads, length, width] with a row for each parent. */
function gather(parents, Tensor) {
  return map(parents[0].past, (tensor, name) => {
    const [, ...shape] = tensor.dims;
    const size = shape.reduce((product, value) => product * value, 1);
    const data = new tensor.data.constructor(size * parents.length);
    parents.forEach(({ past, row }, at) => data.set(past[name].data.subarray(row * size, (row + 1) * size), at * size));
    return new Tensor(tensor.type, data, [parents.length, ...shape]);
  });
}

/** Return the first `length` places of keys or values [1, heads, places, width]. */
function first(tensor, length, Tensor) {
  const [, heads, places, width] = tensor.dims;
  const data = new tensor.data.constructor(heads * length * width);
  for (let head = 0; head < heads; head++) {
    const begin = head * places * width;
    data.set(tensor.data.subarray(begin, begin + length * width), head * length * width);
  }
  return new Tensor(tensor.type, data, [1, heads, length, width]);
}

function map(past, change) {
  return Object.fromEntries(Object.entries(past).map(([name, tensor]) => [name, change(tensor, name)]));
}

function lengthOf(past) {
  return Object.values(past)[0].dims[2];
}

function onGpu(past) {
  return Object.values(past ?? {}).some(({ location }) => location === "gpu-buffer");
}

function drop(past) {
  for (const tensor of Object.values(past ?? {})) if (tensor.location === "gpu-buffer") tensor.dispose();
}
