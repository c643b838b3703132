"""Sharded training part by part; the checks stand in on_two_processes.py, which is started once for all."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import run_ranks

SCRIPT = Path(__file__).parents[1] / "support" / "on_two_processes.py"
CHECKS = (
    "muon_equals_plain_muon",
    "fused_adamw_takes_shards",
    "gradients_are_those_of_all_ranks",
    "a_write_that_fails_on_one_rank_is_heard_of_on_all",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run_ranks([sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("parts"))], 2)


@pytest.mark.parametrize("check", CHECKS)
def test_on_two_processes(done: subprocess.CompletedProcess[str], check: str):
    assert f"passed: {check}\n" in done.stdout, done.stderr
