"""Nothing goes to the hub unless requested, and then exactly what was listed."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from keylm.base.errors import KeylmError
from keylm.cli.main import app
from keylm.export.push import plan_upload, push


class FakeHfApi:
    """Records what is requested of it."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fault = fault

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        if self.fault:
            raise self.fault

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("model.safetensors", 300), ("config.json", 20), ("README.md", 10), ("sub/a.gguf", 5)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    for name in ("b.gguf.failed", "c.onnx.unchecked", ".lock", "evaluation/piqa.json", "hf.failed/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no")
    return tmp_path


def test_the_plan_lists_what_is_sound(folder: Path):
    plan = plan_upload(folder, "me/small")
    assert plan.files == (("README.md", 10), ("config.json", 20), ("model.safetensors", 300), ("sub/a.gguf", 5))
    assert plan.bytes == 335
    assert set(plan.left_out) == {
        *("b.gguf.failed", "c.onnx.unchecked", ".lock", "evaluation/piqa.json", "hf.failed/model.safetensors")
    }


def test_by_default_nothing_is_uploaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import huggingface_hub

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "HfApi", never)
    app(["push", str(folder), "me/small"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "300  model.safetensors" in printed
    assert "335  bytes in 4 files to me/small" in printed
    assert "nothing was uploaded" in printed


def test_what_was_listed_is_uploaded(folder: Path):
    api = FakeHfApi()
    plan = plan_upload(folder, "me/small")
    assert push(plan, private=True, token="secret", api=api) == "https://huggingface.co/me/small"
    (_, made), (_, sent) = api.calls
    assert (made["repo_id"], made["private"], made["token"]) == ("me/small", True, "secret")
    assert sent["allow_patterns"] == [name for name, _ in plan.files]
    assert (sent["repo_id"], sent["folder_path"]) == ("me/small", folder)


def test_a_token_and_a_card_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    plan = plan_upload(folder, "me/small")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(KeylmError, match="no token for the hub"):
        push(plan, private=True, api=FakeHfApi())
    (folder / "README.md").unlink()
    api = FakeHfApi()
    with pytest.raises(KeylmError, match="has no README"):
        push(plan_upload(folder, "me/small"), private=True, token="t", api=api)
    assert not api.calls


def test_a_refusal_is_one_error_without_the_token(folder: Path):
    import httpx2 as httpx

    response = httpx.Response(403, request=httpx.Request("POST", "https://hub"))
    fault = HfHubHTTPError("403 Forbidden: you may not\nmore", response=response)
    with pytest.raises(KeylmError, match="me/small: the hub refuses: 403 Forbidden") as failure:
        push(plan_upload(folder, "me/small"), private=True, token="secret", api=FakeHfApi(fault))
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("repo", ["small", "me/", "me/a/b", "../x", "me/sm all"])
def test_names_that_are_none_are_refused(folder: Path, repo: str):
    with pytest.raises(KeylmError, match="accepted: OWNER/NAME"):
        plan_upload(folder, repo)


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(KeylmError, match="no weights in it"):
        plan_upload(tmp_path, "me/small")
    with pytest.raises(KeylmError, match="no such folder"):
        plan_upload(tmp_path / "none", "me/small")
