"""Everyday conversations correct typos and name the assistant."""

from support.instruction_examples import documents

from keylm.instructions.generator import GeneratorSettings, PairGenerator


def test_everyday_conversations_fix_typos_and_name_the_assistant():
    generator = PairGenerator(documents(), GeneratorSettings(seed=0, name="Pip"))
    pairs = [generator.everyday(index) for index in range(500)]
    fixes = [pair for pair in pairs if pair.kind == "typo_fix"]
    assert len(fixes) > 50
    text = "\n".join(text.text for texts in documents().values() for text in texts)
    for pair in fixes:
        assert any(m["content"] in text for m in pair.messages if m["role"] == "assistant")
    said = " ".join(m["content"] for pair in pairs if pair.kind == "identity" for m in pair.messages)
    assert "Pip" in said
    assert "@NAME" not in said
