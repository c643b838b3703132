import re
from pathlib import Path

import pytest

from keylm.base.errors import KeylmError
from keylm.model.folder import check_model_folder


def test_weights_that_the_clone_left_out_are_named_with_the_command_that_fetches_them(tmp_path: Path):
    folder = tmp_path / "keylm-75m"
    folder.mkdir()
    (folder / "config.json").touch()
    with pytest.raises(KeylmError, match=r"no \*\.safetensors in it; accepted: a model folder with weights$"):
        check_model_folder(folder)
    (folder / "model.safetensors.index.json").touch()
    with pytest.raises(KeylmError, match=re.escape("git sparse-checkout add '/models/keylm-75m/*.safetensors'")):
        check_model_folder(folder)
