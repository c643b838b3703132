"""`keylm serve` itself: what goes wrong at the start, and how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.fake_server import model_folder  # noqa: F401

from keylm.base.errors import KeylmError
from keylm.serving.start import ServeOptions, serve


def test_a_port_in_use_and_a_missing_model_are_said_at_once(model_folder, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KeylmError, match=rf"127.0.0.1:{port}: .*accepted: a free --port"):
            serve(model_folder, ServeOptions(port=port))
    with pytest.raises(KeylmError, match=r"no config\.json"):
        serve(tmp_path, ServeOptions())
    with pytest.raises(KeylmError, match="a --host of this machine"):
        serve(model_folder, ServeOptions(host="203.0.113.1", open=True))


def test_a_missing_package_is_named(model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(KeylmError, match=r"pip install -e '\.\[serve\]'"):
        serve(model_folder, ServeOptions())


@pytest.mark.parametrize("number", [signal.SIGINT])
def test_ctrl_c_ends_it_cleanly(model_folder, number):
    command = [sys.executable, "-m", "keylm", "serve", str(model_folder), "--port", "0", "--no-suggest"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        answer = urllib.request.urlopen(f"{address}/v1/models", timeout=30).read()
        assert json.loads(answer)["data"][0]["id"] == Path(model_folder).name
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
