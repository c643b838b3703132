"""Damaged model folders: opened, written with, told of, converted; each is an answer or one clear error."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.mutation import budget, dice, mutate_file, probe, report

from keylm.model.opening import export_folder
from keylm.report.card import card_text
from keylm.runtimes.cached_decoder import CachedDecoder, load_weights
from keylm.runtimes.generation import Generator, Sampling
from keylm.serving.texts import Prompts
from keylm.tuning.sft import Tuning, sft_recipe

BRIEF = Sampling(max_new_tokens=2, seed=1)
CHAT = [{"role": "user", "content": "the cat?"}]


def generate(folder: Path) -> None:
    generator = Generator(folder)
    generator.complete("the old", BRIEF)
    generator.answer(CHAT, BRIEF)
    generator.answers([CHAT, [*CHAT, *CHAT]], BRIEF)


def serve(folder: Path) -> None:
    weights = load_weights(folder)
    prompts = Prompts(folder, weights.vocab_size)
    ids = prompts.chat(CHAT) if prompts.chats else prompts.completion("the old")
    decoder = CachedDecoder(weights)
    decoder.prefill(decoder.cache(1, 64), 0, 0, ids)


def describe(folder: Path) -> None:
    card_text(folder)


def tune(folder: Path) -> None:
    sft_recipe(folder, ["chats.jsonl"], "run", Tuning())


def export(folder: Path) -> None:
    export_folder(folder, folder.parent / "hf")


def convert(folder: Path) -> None:
    from keylm.export.reference import FileTokenizer, TorchModel
    from keylm.runtimes.gguf_write import special_ids, write_gguf, write_modelfile
    from keylm.runtimes.onnx_files import write_beside

    model, _ = TorchModel(folder), FileTokenizer(folder)
    write_gguf(folder, model.weights(), folder.parent / "x.gguf", "f16", "x")
    special_ids(folder)
    write_modelfile(folder, "x", folder.parent / "Modelfile")
    write_beside(folder, folder.parent / "onnx")


@pytest.mark.parametrize("act", [generate, serve, describe, tune, export, convert], ids=lambda act: act.__name__)
def test_damaged_model_folders(act: Callable[[Path], None], base: Path, tmp_path: Path):
    if act is convert and not find_spec("gguf"):
        pytest.skip("needs the export extra")
    findings = {}
    for number in budget(12):
        rng, folder = dice(f"model {act.__name__}", number), tmp_path / "case" / "model"
        shutil.copytree(base, folder)
        files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors"))
        file = rng.choice(files)
        done = mutate_file(file, rng)
        if found := probe(lambda folder=folder: act(folder)):
            findings[f"{act.__name__} {number} ({file.name}, {done})"] = found
        shutil.rmtree(tmp_path / "case")
    report(findings)


@pytest.mark.skipif(not find_spec("gguf"), reason="needs the export extra")
def test_damaged_gguf_files(base: Path, tmp_path: Path):
    from keylm.export.reference import TorchModel
    from keylm.runtimes.gguf_read import GgufFile
    from keylm.runtimes.gguf_write import write_gguf

    write_gguf(base, TorchModel(base).weights(), tmp_path / "sound.gguf", "q8_0", "x")
    sound, file, findings = (tmp_path / "sound.gguf").read_bytes(), tmp_path / "x.gguf", {}

    def read() -> None:
        opened = GgufFile(file)
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        opened.unpack(tmp_path / "unpacked")
        opened.weights()
        Prompts(tmp_path / "unpacked", 400)

    for number in budget(60):
        rng = dice("gguf", number)
        head = 12_000  # fields and vocabulary; what follows is values, which may be anything
        changed = bytearray(sound)
        for _ in range(rng.choice((1, 1, 4))):
            changed[rng.randrange(head)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        file.write_bytes(bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.2 else changed))
        if found := probe(read):
            findings[f"gguf {number}"] = found
    report(findings)
