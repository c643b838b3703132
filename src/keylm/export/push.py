"""Upload a folder to the hub. Nothing leaves this machine without an explicit `--upload`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.base.errors import KeylmError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LEFT_OUT = re.compile(r"(^|/)\.|\.(unchecked|failed)(/|$)|(^|/)evaluation/")
"""Hidden files, files that passed no parity check, and what `keylm eval` left."""


@dataclass(frozen=True)
class Upload:
    """What would go to the hub: (path in the repository, bytes)."""

    repo: str
    folder: Path
    files: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(size for _, size in self.files)


def plan_upload(folder: Path, repo: str) -> Upload:
    """Return what a push would upload. Raises KeylmError if the name or the folder is invalid."""
    if not REPO.fullmatch(repo):
        raise KeylmError(f"repository {repo!r}: accepted: OWNER/NAME, as on the hub")
    if not folder.is_dir():
        raise KeylmError(f"{folder}: no such folder; accepted: a model folder, or one that `keylm export` wrote")
    paths = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in paths]
    files = tuple((name, size) for name, size in names if not LEFT_OUT.search(name))
    if not any(name.endswith((".safetensors", ".gguf", ".onnx")) for name, _ in files):
        raise KeylmError(f"{folder}: no weights in it (.safetensors, .gguf, .onnx); accepted: a folder with a model")
    return Upload(repo, folder, files, tuple(name for name, _ in names if LEFT_OUT.search(name)))


def push(upload: Upload, *, private: bool, token: str | None = None, api: Any = None) -> str:
    """Upload; return the address. `token`: by default HF_TOKEN or the saved login. Raises KeylmError where refused."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    token = token or os.environ.get("HF_TOKEN") or get_token()
    if not token:
        raise KeylmError("no token for the hub; accepted: the variable HF_TOKEN, or `hf auth login`")
    if "README.md" not in dict(upload.files):
        raise KeylmError(
            f"{upload.folder}: has no README.md; accepted: one with a card (keylm card MODEL --out README.md)"
        )
    api = api or HfApi(token=token)
    try:
        api.create_repo(upload.repo, token=token, private=private, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=upload.repo,
            folder_path=upload.folder,
            token=token,
            repo_type="model",
            commit_message="Upload by keylm",
            allow_patterns=[name for name, _ in upload.files],
        )
    except (HfHubHTTPError, OSError) as error:
        raise KeylmError(f"{upload.repo}: the hub refuses: {str(error).strip().splitlines()[0][:300]}") from None
    return f"https://huggingface.co/{upload.repo}"
