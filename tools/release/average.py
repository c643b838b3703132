"""Average the weights of stages that went on from one model in other orders of the data: a model soup.

    python -m tools.release.average anneal anneal_2 --out OUT

OUT/averaged/model is the mean of OUT/STAGE/model, taken in fp32; evaluate.py measures it, and collect.py releases it
with `--last averaged`. Models that began from the same weights mostly lie in one basin of the loss, where their mean is
better than each (Wortsman et al., arXiv 2203.05482); of models that did not, the mean is nonsense. Two falls of 520
million tokens were still too far apart for most sources (LOG.md): held_out.py tells.
"""

import argparse
from pathlib import Path

import torch

from keylm.base.errors import KeylmError
from keylm.base.files import write_json
from keylm.model.folder import check_model_folder, export_model, model_fingerprint, read_weights
from keylm.recipe.run_folder import RunFolder
from tools.release.plan import parser, run


def average(arguments: argparse.Namespace) -> Path:
    """Write the mean of the stages' models; return its folder. Raises KeylmError where they are not of one kind."""
    folders = [RunFolder(arguments.out / stage) for stage in arguments.stages]
    recipe, tokenizer = folders[0].saved_recipe(), folders[0].model
    for folder in folders:
        check_model_folder(folder.model)
        if folder.saved_recipe().model != recipe.model:
            raise KeylmError(f"{folder.path}: another shape than that of {folders[0].path}; accepted: the same")
        if (folder.model / "tokenizer.json").read_bytes() != (tokenizer / "tokenizer.json").read_bytes():
            raise KeylmError(f"{folder.model}: another tokenizer than that of {tokenizer}; accepted: the same")
    mean: dict[str, torch.Tensor] = {}
    for folder in folders:
        for name, value in read_weights(folder.model).items():
            part = value.float() / len(folders)
            mean[name] = mean[name] + part if name in mean else part
    made = RunFolder(arguments.out / "averaged")
    made.path.mkdir(parents=True, exist_ok=True)
    export_model(recipe, mean, tokenizer, made.model)
    fingerprints = (model_fingerprint(folder.model) for folder in folders)
    write_json(made.path / "averaged.json", dict(zip(arguments.stages, fingerprints, strict=True)))
    return made.model


def main() -> None:
    given = parser(__doc__)
    given.add_argument("stages", nargs="+", help="run folders under OUT, all trained from one model")
    given.add_argument("--out", type=Path, required=True, help="where train.py wrote")
    run(average, given.parse_args())


if __name__ == "__main__":
    main()
