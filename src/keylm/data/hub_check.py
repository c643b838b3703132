"""Many sources on the hub at once: can they be had, and how large are they.

Invariant: it takes a few seconds, however many sources there are and whatever the hub does: nothing is repeated, and
an answer that does not come in time is none.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from keylm.base.errors import KeylmError
from keylm.data.hub import SIZE_SECONDS, HubRows, HubUnreachable, hub_size, load_libraries, no_answer
from keylm.recipe.schema import Source

ANSWER_SECONDS = 5.0
"""Seconds that the hub has to answer."""
SPARE_SECONDS = 2.0
"""Seconds beyond that for what has no limit of its own: a look-up of the host's address."""

T = TypeVar("T")


def look_up(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the commits of hub sources. Raises KeylmError: a line for each that cannot be had, one for no network."""
    if not sources:
        return {}
    load_libraries()

    def ask(name: str) -> str:
        return HubRows(name, sources[name], check_within=ANSWER_SECONDS).revision

    revisions, refused, unreached = {}, [], []
    reason = no_answer(f"nothing within {ANSWER_SECONDS + SPARE_SECONDS:g} s")
    for name, answer in _all_at_once(ask, sources, ANSWER_SECONDS + SPARE_SECONDS).items():
        error = answer.exception() if answer.done() else HubUnreachable(name, reason)
        if error is None:
            revisions[name] = answer.result()
        elif isinstance(error, HubUnreachable):
            unreached.append(name)
            reason = error.reason
        elif isinstance(error, KeylmError):
            refused.append(str(error))
        else:
            raise error
    if unreached:
        which = f"source{'s' * (len(unreached) > 1)} {', '.join(unreached)}"
        refused.append(f"{which}: {reason}")
    if refused:
        raise KeylmError("\n".join(refused))
    return revisions


def hub_sizes(sources: Mapping[str, Source]) -> dict[str, int | None]:
    """Return the bytes in memory of hub sources, None where the hub does not say."""
    with suppress(KeylmError):
        load_libraries()  # seconds that are none of the hub's
    answers = _all_at_once(lambda name: hub_size(sources[name]), sources, SIZE_SECONDS + SPARE_SECONDS)
    sizes = {name: answer.result() if answer.done() else None for name, answer in answers.items()}
    return {name: size and size[1] for name, size in sizes.items()}


def _all_at_once(ask: Callable[[str], T], names: Mapping[str, Source], seconds: float) -> dict[str, "Future[T]"]:
    """Return the answers about `names`; those that take longer are not done, and hold up nobody."""
    answers: dict[str, Future[T]] = {name: Future() for name in names}

    def answer(name: str) -> None:
        try:
            answers[name].set_result(ask(name))
        except BaseException as error:
            answers[name].set_exception(error)

    for name in names:
        Thread(target=answer, args=(name,), daemon=True).start()  # one that hangs ends with the process
    wait(answers.values(), timeout=seconds)
    return answers
