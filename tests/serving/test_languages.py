"""A model's own language decides what is suggested, and what the page reads."""

from pathlib import Path

import pytest
from support.shapes import random_qwen3

from keylm.languages.language import language_of
from keylm.page.language import language_script
from keylm.serving.start import ServeOptions, prepare
from keylm.text.tokenizer import train_tokenizer

pytest.importorskip("starlette")
pytest.importorskip("symspellpy", reason="symspellpy is not installed")
TEXT = "Über die Straße gehen schöne Häuser, größere Bäume und kleine Gärten für fünf müde Söhne. "


@pytest.mark.parametrize(("languages", "code"), [(None, "en"), ('["de"]', "de"), ('["de/german", "en"]', "de/german")])
def test_the_models_language_is_served(languages: str | None, code: str, tmp_path: Path):
    from starlette.testclient import TestClient

    from keylm.serving.server import application

    folder = tmp_path / "model"
    train_tokenizer(iter([TEXT] * 40), 330, folder, 64)
    random_qwen3(1, 330, num_hidden_layers=1, max_position_embeddings=64).save_pretrained(folder)
    if languages:
        (folder / "keylm.json").write_text(f'{{"languages": {languages}}}')
    served = prepare(folder, ServeOptions(engine="torch", slots=1))
    with TestClient(application(served), base_url="http://127.0.0.1") as client:
        assert client.get("/language_table.js").content == language_script(language_of(code))
        found = client.post("/v1/suggest", json={"text": "Über die Str"}).json()
    assert found["partial"] == "Str"
    words = [each["word"] for each in found["suggestions"]]
    assert (code != "en") == any(not word.isascii() for word in words)
