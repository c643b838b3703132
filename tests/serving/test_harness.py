"""lm_eval over HTTP gives what lm_eval gives over the model folder."""

import pytest
import torch
from support.fake_server import address, both_engines, model_folder, served  # noqa: F401

pytestmark = both_engines


def test_local_completions_scores_as_the_hf_backend(address, model_folder, exactness):
    pytest.importorskip("lm_eval", reason="needs lm_eval: pip install 'keylm[eval]'")
    pytest.importorskip("tenacity", reason="needs tenacity: lm_eval's API models")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    pairs = [
        ("the old man", " told the cat"),
        ("a red fox", " ran."),
        ("in the rain by the hill,", " an assistant saw"),
    ]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n) for n, pair in enumerate(pairs * 2)
    ]
    settings = {"max_length": 128, "batch_size": 2}
    over_http = LocalCompletionsAPI(
        base_url=f"{address}/v1/completions",
        model="tiny",
        tokenizer=str(model_folder),
        tokenizer_backend="huggingface",
        num_concurrent=1,
        **settings,
    ).loglikelihood(requests)
    plain = HFLM(pretrained=str(model_folder), device="cpu", dtype=torch.float32, **settings).loglikelihood(requests)
    for (value, greedy), (expected, expected_greedy) in zip(over_http, plain, strict=True):
        assert value == pytest.approx(expected, abs=max(1e-3, exactness))
        assert greedy == expected_greedy
