"""lm_eval's generative tasks (IFEval and others) on keylm's own decoder: HFLM's rules, written many at once.

Invariant: the answers are those of lm_eval's `HFLM.generate_until` under greedy decoding, up to rounding (a test
compares them): its prompts, truncation, stop strings and limits, and the model folder's generation settings, such as a
repetition penalty.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text

from keylm.runtimes.batch_generation import LOOK, BatchGenerator, Continuation
from keylm.runtimes.sampling import Sampling, sampling_of

Told = Callable[[int, str], None]
"""(number of a request, its text)"""


def decodable(lm: Any, requests: Sequence[Any]) -> bool:
    """Return whether the decoder can write all `requests` of an HFLM: plain sampling, no thinking, room for answers."""
    if lm.backend != "causal" or lm.think_end_token is not None or lm.mixed_precision_dtype is not None:
        return False
    kinds = {repr(request.args[1]): _settings(lm, request.args[1]) for request in requests}.values()
    return all(_sampling(lm, kind) is not None and kind["max_gen_toks"] < lm.max_length for kind in kinds)


def written(lm: Any, writer: BatchGenerator, requests: Sequence[Any], told: Told) -> list[str]:
    """Return the text of each request (context, settings) as `HFLM.generate_until` does."""
    texts = [""] * len(requests)
    kinds: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        kinds.setdefault(repr(request.args[1]), []).append(number)
    for numbers in kinds.values():
        settings = _settings(lm, requests[numbers[0]].args[1])
        stops = handle_stop_sequences(
            settings.pop("until"), eos=lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
        )
        limit = settings.pop("max_gen_toks")
        prompts = encoded(lm, [requests[number].args[0] for number in numbers], limit)

        def done(number: int, found: Continuation, numbers: list[int] = numbers, stops: list[str] = stops) -> None:
            text = postprocess_generated_text(lm.tok_decode(found.ids), stops, None)
            texts[numbers[number]] = text
            told(numbers[number], text)

        sampling = _sampling(lm, settings)
        assert sampling is not None
        writer.generate(prompts, sampling, limits=[limit] * len(prompts), stop=stopper(lm, stops), done=done)
    return texts


def _settings(lm: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return dict(normalize_gen_kwargs(asked, lm.max_gen_toks))


def _sampling(lm: Any, settings: dict[str, Any]) -> Sampling | None:
    plain = {name: value for name, value in settings.items() if name not in ("until", "max_gen_toks")}
    return None if "max_length" in plain else sampling_of(plain, lm.model.generation_config)


def encoded(lm: Any, contexts: Sequence[str], limit: int) -> list[list[int]]:
    """Return the contexts' tokens by the rules of HFLM.tok_batch_encode, the last that leave room for `limit` more."""
    if has_bos_prefix(contexts[0], getattr(lm.tokenizer, "bos_token", None)):
        special = {"add_special_tokens": False}
    else:
        special = {} if lm.add_bos_token is None else {"add_special_tokens": lm.add_bos_token}
    ids: list[list[int]] = lm.tokenizer(list(contexts), truncation=lm.truncation, **special)["input_ids"]
    return [one[-(lm.max_length - limit) :] for one in ids]


def stopper(lm: Any, stops: Iterable[str]) -> Callable[[int, list[int]], bool] | None:
    """Return what tells that a stop string was written since the last look; None where only the end of text stops."""
    special = set(lm.tokenizer.all_special_tokens)  # which decoding leaves out
    strings = [stop for stop in stops if stop and stop not in special]
    if not strings:
        return None
    tail = max(len(stop.encode()) for stop in strings) + max(LOOK.values())  # a token has at least one byte

    def stopped(number: int, ids: list[int]) -> bool:
        text = lm.tok_decode(ids[-tail:])
        return any(stop in text for stop in strings)

    return stopped
