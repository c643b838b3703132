"""Rows of a data set on the Hugging Face hub, streamed: nothing is kept on disk but a few small files about it.

Invariant: the rows of a split come once each and in order at one fixed revision, however often the connection breaks
and however often the process is killed and resumed from `HubRows.state()`.
"""

import importlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

from keylm.base.console import say, seconds
from keylm.base.errors import KeylmError, how_to_install
from keylm.data.adapters import adapter_for
from keylm.recipe.schema import Source

TRIES = 10
"""Attempts without a new row after which we give up."""
FIRST_TRIES = 3
"""Attempts while the hub has never answered: then there is most likely no network."""
LONGEST_ANSWER = 30.0
"""Seconds to wait for an answer about a data set."""
LONGEST_WAIT = 120.0
"""Seconds between two attempts at most, unless the hub asks for more."""
SIZE_SECONDS = 5.0
"""Seconds to wait for what the hub says of a data set's size."""
REPORTED_WAIT = 10.0
"""Waits inside huggingface_hub (which retries single requests itself) are reported from so many seconds on."""
SHA = re.compile(r"[0-9a-f]{40}")


class HubUnreachable(KeylmError):
    """The hub does not answer or must not be asked: `reason` is the same for every source on it."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason


class HubRows:
    """The rows of a recipe's hub source, from the start or from a `state` on; each iteration continues with the next.

    `revision` is the commit, 40 hexadecimal digits. Raises KeylmError where the data set cannot be had.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        state: dict[str, Any] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        check_within: float | None = None,
    ) -> None:
        """Look up the revision of the recipe's source `name`; the data themselves are opened when rows are wanted.

        `check_within` is for one who only wants to know whether the source can be had: the hub is asked once, even
        about a commit, and has so many seconds to answer.
        """
        self._name, self._source, self._sleep, self._check_within = name, source, sleep, check_within
        self._hub = source.hub or ""
        self._adapter = adapter_for(source.hub, source.adapter)
        self._file = "/".join(part for part in (self._hub, source.config, source.split) if part)
        self._reached = False
        self._stream: Any = None
        load_libraries()
        if _offline():
            raise self._unreachable("HF_HUB_OFFLINE is set; unset it, or give the data as files with `path`")
        self._check_origin(state)
        self._rows: int = state["rows"] if state else 0
        self.revision = self._revision(state)
        # What datasets wrote at another version of itself may not be readable; then rows are counted instead.
        readable = state is not None and state["datasets"] == load_libraries()[0].__version__
        self._position: dict[str, Any] | None = state["stream"] if state and readable else None

    def __iter__(self) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
        """Yield (file, line, row): `line` counts the split's rows from 1, or its groups where the adapter groups."""
        rows: Iterator[Mapping[str, Any]]
        if self._adapter.group:
            # A group is put together from its rows: those before it are read again, and passed over.
            self._position = self._stream = None
            rows = islice(self._adapter.group(self._unbroken(0)), self._rows, None)
        else:
            self._position = self._reached_position()
            rows = self._unbroken(0 if self._position else self._rows)
        for row in rows:
            self._rows += 1
            yield self._file, self._rows, row

    def state(self) -> dict[str, Any]:
        """Return where the next row starts, for JSON and for a later HubRows."""
        return {
            "hub": self._hub,
            "config": self._source.config,
            "split": self._source.split,
            "revision": self.revision,
            "rows": self._rows,
            "datasets": load_libraries()[0].__version__,
            "stream": None if self._adapter.group else self._reached_position(),
        }

    def _reached_position(self) -> dict[str, Any] | None:
        """Return the position of the datasets stream (known only once it has started), None for the start."""
        return (self._stream.state_dict() if self._stream is not None else None) or self._position

    def _unbroken(self, skipped: int) -> Iterator[Mapping[str, Any]]:
        """Yield the rows from `_position` on, less the `skipped` first; where the connection breaks, open it again."""
        tries = 0
        while True:
            try:
                stream = self._open()
                if self._position is not None:
                    stream.load_state_dict(self._position)
                rows = iter(stream)
                deque(islice(rows, skipped), maxlen=0)
                self._stream, self._reached, skipped = stream, True, 0
                for row in rows:
                    tries = 0
                    yield row
                return
            except KeylmError:
                raise
            except Exception as error:
                self._position = self._reached_position()
                tries += 1
                self._wait(error, tries)

    def _open(self) -> Any:
        """Return the split as datasets' IterableDataset, with the adapter's columns alone."""
        datasets, _ = load_libraries()
        # With the prefix a local folder of the same name is not taken for the data set.
        path = f"hf://datasets/{self._hub}"
        try:
            builder = datasets.load_dataset_builder(path, name=self._source.config, revision=self.revision)
        except ValueError as error:
            if "BuilderConfig" in str(error) or "Config name" in str(error):
                name = self._source.config
                given = f"there is no config = {name!r}" if name else "it needs a `config`"
                configs = datasets.get_dataset_config_names(path, revision=self.revision)
                raise self._error(f"{given}; accepted: {', '.join(configs)}") from error
            raise
        splits = builder.as_streaming_dataset()
        if self._source.split not in splits:
            given = f"split = {self._source.split!r}"
            raise self._error(f"there is no {given}; accepted: {', '.join(map(str, splits))}")
        stream = splits[self._source.split]
        columns = [column for column in self._adapter.with_columns if column in (stream.column_names or ())]
        if not columns or len(columns) == len(stream.column_names):
            return stream
        if hasattr(builder.config, "columns"):
            # Parquet: only these columns' bytes are fetched.
            builder.config.columns = columns
            return builder.as_streaming_dataset(split=self._source.split)
        return stream.select_columns(columns)

    def _revision(self, state: dict[str, Any] | None) -> str:
        """Return the commit of the recipe's revision, or of the state's where the recipe names none."""
        made_at: str | None = state["revision"] if state else None
        wanted = self._source.revision
        if wanted is None and made_at is not None:
            return made_at
        is_known = wanted and SHA.fullmatch(wanted) and self._check_within is None
        revision = wanted if wanted and is_known else self._resolve(wanted)
        if made_at not in (None, revision):
            raise self._error(
                f"begun at revision {made_at}, but revision = {wanted!r} is {revision}; "
                f'set revision = "{made_at}" to go on, or begin anew'
            )
        return revision

    def _resolve(self, revision: str | None) -> str:
        """Return the commit that a branch or a tag (None: main) stands for now."""
        _, hub = load_libraries()
        tries = 0
        while True:
            try:
                timeout = self._check_within or LONGEST_ANSWER
                sha = hub.HfApi().dataset_info(self._hub, revision=revision, timeout=timeout).sha
                self._reached = True
                return str(sha)
            except Exception as error:
                tries += 1
                self._wait(error, tries)

    def _wait(self, error: Exception, tries: int) -> None:
        """Wait before the next attempt, longer each time; raise KeylmError where another one is of no use."""
        status = _status(error)
        if not _passes(error, status):
            raise self._explained(error, status) from error
        what = f"HTTP {status}" if status else "the connection broke"
        most = TRIES if self._reached or status else FIRST_TRIES
        if tries >= (most if self._check_within is None else 1):
            if not self._reached and not status:
                raise self._unreachable(no_answer(_short(error))) from error
            attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
            raise self._error(f"given up after {attempts} without a new row ({what}); try again later") from error
        wait = max(min(2.0 ** (tries - 1), LONGEST_WAIT), _retry_after(error))
        say(f"{self._name}: {what} at row {self._rows + 1:,} of {self._file}; trying again in {seconds(wait)}")
        self._sleep(wait)

    def _explained(self, error: Exception, status: int | None) -> KeylmError:
        """Return what an error that stays is to a person, and what to do."""
        kinds = {type(cause).__name__ for cause in _causes(error)}
        page = f"{_address()}/datasets/{self._hub}"
        # datasets' own error keeps no trace of the hub's but its words.
        if "GatedRepoError" in kinds or any("gated dataset" in str(cause) for cause in _causes(error)):
            return self._error(
                f"this data set is gated; accept its terms at {page} and log in with `hf auth login` (or set HF_TOKEN)"
            )
        if "RevisionNotFoundError" in kinds:
            return self._error(f"there is no revision = {self._source.revision!r}; accepted: a branch, tag or commit")
        if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"} or status == 404:
            return self._error(
                f"the hub has no such data set, or it is private; look at {page}, and log in with `hf auth login` "
                "if it is yours"
            )
        if status in (401, 403):
            return self._error(f"the hub refuses it (HTTP {status}); log in with `hf auth login` (or set HF_TOKEN)")
        return self._error(f"its data cannot be read ({_short(error)})")

    def _check_origin(self, state: dict[str, Any] | None) -> None:
        ours = (self._hub, self._source.config, self._source.split)
        if state and (state["hub"], state["config"], state["split"]) != ours:
            raise self._error(f"begun with {state['hub']} {state['config']} {state['split']}; begin anew")

    def _error(self, text: str) -> KeylmError:
        return KeylmError(f"source {self._name}: {self._file}: {text}")

    def _unreachable(self, reason: str) -> HubUnreachable:
        return HubUnreachable(f"source {self._name}: {self._file}", reason)


def no_answer(why: str) -> str:
    """Return what to do where the hub does not answer."""
    return (
        f"the hub, {_address()}, cannot be reached ({why}); look after the network or HF_ENDPOINT, "
        "or give the data as files with `path`"
    )


def _address() -> str:
    return str(load_libraries()[1].constants.ENDPOINT)


def hub_size(source: Source) -> tuple[int, int] | None:
    """Return (rows, bytes in memory) of a hub source's split if its card says so; None if not, or out of reach."""
    try:
        _, hub = load_libraries()
        if _offline():
            return None
        card = hub.HfApi().dataset_info(source.hub, revision=source.revision, timeout=SIZE_SECONDS).card_data
        infos = (card.to_dict() if card else {}).get("dataset_info") or []
        infos = [infos] if isinstance(infos, dict) else infos
        wanted = source.config or "default"
        for info in infos:
            if (len(infos) == 1 and source.config is None) or info.get("config_name", "default") == wanted:
                for split in info.get("splits", ()):
                    if split.get("name") == source.split:
                        return int(split["num_examples"]), int(split["num_bytes"])
    except Exception:
        return None  # a size is a comfort, for which nothing may stop
    return None


@cache
def load_libraries() -> tuple[Any, Any]:
    """Return datasets and huggingface_hub, silenced; slow to import. Raises KeylmError where they are not installed."""
    try:
        datasets = importlib.import_module("datasets")
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise KeylmError(f"sources with `hub` need {error.name}: {how_to_install('hub')}") from error
    datasets.disable_progress_bars()
    hub.utils.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    # datasets repeats reads up to 20 times, with waits of up to a minute and without a word: that is our part.
    # What huggingface_hub does, a few repetitions of a single request, saves a new start of the file and stays.
    for key in ("READ", "OPEN"):
        setattr(datasets.config, f"STREAMING_{key}_MAX_RETRIES", 1)
        setattr(datasets.config, f"STREAMING_{key}_RETRY_INTERVAL", 0)
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
    requests = logging.getLogger("huggingface_hub.utils._http")
    requests.propagate = False
    requests.handlers[:] = [_Waits()]
    return datasets, hub


class _Waits(logging.Handler):
    """Says when huggingface_hub waits long before it repeats a request; the rest of its warnings is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"(?:Waiting|Retrying in) ([\d.]+)s", record.getMessage())
        if found and float(found[1]) >= REPORTED_WAIT:
            say(f"the hub does not answer or asks to wait; trying again in {seconds(float(found[1]))}")


def _offline() -> bool:
    return bool(load_libraries()[1].constants.HF_HUB_OFFLINE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error came from, if one did."""
    found = (getattr(getattr(cause, "response", None), "status_code", None) for cause in _causes(error))
    return next((status for status in found if isinstance(status, int)), None)


def _retry_after(error: BaseException) -> float:
    """Return the seconds to wait that the hub requested; 0 where it did not."""
    for cause in _causes(error):
        wait = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After", "")
        if re.fullmatch(r"\d+(\.\d+)?", wait):
            return float(wait)
    return 0.0


PASSING = ("NetworkError", "TimeoutException", "ProtocolError", "ConnectionError", "TimeoutError", "EOFError")
"""Classes of errors, here and in the HTTP libraries, that a new attempt may fix."""


def _passes(error: BaseException, status: int | None) -> bool:
    """Return whether a new attempt may succeed."""
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    return any(base.__name__ in PASSING for cause in _causes(error) for base in type(cause).__mro__)


def _short(error: BaseException) -> str:
    """Return the first line of an error's cause, in at most 200 characters."""
    last = list(_causes(error))[-1]
    text = str(last).strip().partition("\n")[0][:200]
    return f"{type(last).__name__}: {text}" if text else type(last).__name__
