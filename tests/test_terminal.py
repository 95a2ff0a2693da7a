"""Streams that are closed or ASCII, Ctrl-C, full disks: one sentence each."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

from recipes import frame

import pytest
from safetensors import SafetensorError

from suzoo.cli import main
from suzoo.cli.completion import completion_script
from suzoo.engine import run_script
from suzoo.terminal import is_full_disk, is_mistake, sentence
from tests.hub.folders import make_encoder
from tests.tiny import tiny_tokenizer

TRAINING = Path(__file__).parent.parent / "training"


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("terminal") / "encoder"
    make_encoder().save_pretrained(folder, tokenizer=tiny_tokenizer())
    return folder


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TRAINING, **options)


def test_ctrl_c_before_the_loop_is_one_word(capsys):
    done = python("import recipes\nraise KeyboardInterrupt")  # as while torch is imported
    assert done.returncode != 0 and done.stderr == "interrupted\n"

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_script(interrupted)
    assert caught.value.code == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_a_script_ends_with_its_launcher(tmp_path):
    """`accelerate launch` with one process dies of SIGTERM and leaves its child; this one is told, too."""
    child = "import os, signal, sys, time; from suzoo.engine import run_script\n"
    child += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.write(1, b'told\\n')))\n"  # no print within a print
    child += "run_script(lambda: (os.write(1, b'ready\\n'), time.sleep(120)))"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    env = {name: value for name, value in os.environ.items() if name != "RANK"} | {"ACCELERATE_MIXED_PRECISION": "no"}
    parent = subprocess.Popen(
        [sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True, cwd=TRAINING, env=env
    )
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    assert parent.stdout.read() == "told\n"  # to its end: the child has closed it
    parent.wait()


def test_a_closed_stdin_reads_as_an_empty_one():
    code = "from suzoo.terminal import prepare_streams; import sys\nassert sys.stdin is None"
    code += "\nprepare_streams(escape=True)\nassert sys.stdin.read() == '' and not sys.stdin.isatty()"
    command = ["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TRAINING.parent)
    assert done.returncode == 0, done.stderr


def test_text_that_ascii_has_not(tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = python("from suzoo.terminal import prepare_streams\nprepare_streams(escape=True)\nprint('今天')", env=env)
    assert done.stdout == "\\u4eca\\u5929\n"
    with pytest.raises(UnicodeEncodeError) as caught:
        "今天".encode("ascii")
    assert sentence(caught.value) == "the output takes ascii only, which has no '\\u4eca': set PYTHONIOENCODING=utf-8"
    # what is piped on is not escaped: it would be other data
    code = "import sys\nfrom suzoo.terminal import *\nprepare_streams(escape=False)\ntry: print('今天')\n"
    code += "except Exception as error: print(is_mistake(error), sentence(error), file=sys.stderr)"
    assert python(code, env=env).stderr.startswith("True the output takes ascii only")


def test_whose_mistake_it_is():
    assert is_mistake(SafetensorError("No space left")) and is_mistake(pickle.UnpicklingError("x"))
    assert not is_mistake(TypeError("x")) and not is_mistake(KeyError("x"))
    assert sentence(OSError(28, "No space left on device", "out/x")) == "out/x: No space left on device"
    assert is_full_disk(sentence(OSError(28, "No space left on device", "out/x")))
    refused = sentence(pickle.UnpicklingError("Unsupported operand 110"))
    assert (
        refused == sentence(RuntimeError("Weights only load failed.\nWeightsUnpickler error"))
        and "safetensors" in refused
    )


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_while_a_vocabulary_is_cut(tmp_path, encoder_folder, monkeypatch, capsys, error):
    def full(*arguments, **options):
        raise error

    corpus, slim = tmp_path / "texts.txt", tmp_path / "slim"
    corpus.write_text("a man is playing\n")
    monkeypatch.setattr("suzoo.models._tokenizer_files.save_tokenizer", full)
    assert main(["slim-vocab", str(encoder_folder), str(slim), "--corpus", str(corpus)]) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("suzoo")]
    assert told.startswith("suzoo slim-vocab: ") and is_full_disk(told)
    assert not slim.exists()


def test_a_bin_that_torch_refuses(tmp_path, encoder_folder):
    shutil.copy(encoder_folder / "config.json", tmp_path)
    for content in (b"not torch", b"", pickle.dumps(os.system)):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match=r"torch refuses .*pytorch_model.bin .*download it again") as caught:
            frame.check_pickled(tmp_path)
        assert "\n" not in str(caught.value)
    frame.check_pickled(encoder_folder)


def test_completion_knows_commands_and_their_options(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for part in ("slim-vocab", "--trust-remote-code", "cosent", "complete -o default -F _suzoo suzoo"):
        assert part in script
    code = script + "\nCOMP_WORDS=(suzoo comp); COMP_CWORD=1; _suzoo; echo ${COMPREPLY[@]}"
    assert subprocess.run(["bash", "-c", code], capture_output=True, text=True).stdout.split() == [
        "compare",
        "completion",
    ]
    code = script + "\nCOMP_WORDS=(suzoo push --pri); COMP_CWORD=2; _suzoo; echo ${COMPREPLY[@]}"
    assert subprocess.run(["bash", "-c", code], capture_output=True, text=True).stdout.split() == ["--private"]
    assert completion_script({}, "zsh").startswith("autoload")
    assert json.dumps(script)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_completes(tmp_path, capsys):
    """A real zsh on a terminal of its own, and the tab key."""
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "suzoo.zsh").write_text(capsys.readouterr().out)
    start = f"autoload -U compinit && compinit -u -d {tmp_path}/dump; source {tmp_path}/suzoo.zsh; print REA''DY"
    code = f"zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z {json.dumps(start)}; zpty -r z out '*READY*'\n"
    for typed, completed in (("suzoo slim", "slim-vocab"), ("--trust", "--trust-remote-code")):
        code += f"zpty -w -n z $'{typed}\\t'; zpty -r z out '*{completed}*'; print -- {completed}\n"
    done = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["slim-vocab", "--trust-remote-code"], done.stderr
