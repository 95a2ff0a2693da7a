"""A written Space is whole: it runs its own suzoo on its own models."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from tests.pages import ROOT

pytest.importorskip("gradio", reason='the demo needs gradio: pip install "suzoo[demo]"')


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_space", ROOT / "hub_scripts/make_space.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_space_says_what_it_needs_and_shows(script, folders, tmp_path, capsys):
    arguments = [str(tmp_path / "space"), folders["tta"], "owner/name", folders["encoder"], "--title", "我的: models"]
    assert script.main(arguments) == 0
    assert f"hf upload OWNER/NAME {tmp_path / 'space'} . --repo-type space" in capsys.readouterr().out
    space = tmp_path / "space"
    card = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["title"] == "我的: models" and card["sdk"] == "gradio" and card["app_file"] == "app.py"
    assert card["models"] == ["owner/name"]
    assert "launch(['models/tta', 'owner/name', 'models/encoder'], title='我的: models')" in (
        space / "app.py"
    ).read_text(encoding="utf-8")
    needed = [Requirement(line) for line in (space / "requirements.txt").read_text().splitlines()]
    names = [one.name for one in needed]
    assert {"torch", "transformers", "captum"} <= set(names) and len(names) == len(set(names))
    (gradio,) = (one for one in needed if one.name == "gradio")
    assert str(gradio.specifier) == f"=={card['sdk_version']}"
    assert script.main(arguments) == 2 and "--overwrite" in capsys.readouterr().err
    assert script.main([*arguments, "--overwrite"]) == 0


def test_mistakes_are_said_before_anything_is_written(script, folders, tmp_path, capsys, monkeypatch):
    def fails(*arguments) -> str:
        assert script.main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    space = tmp_path / "space"
    assert "neither a folder nor a name" in fails(space, "no good name")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in fails(space, tmp_path / "empty")
    (tmp_path / "a/tta").mkdir(parents=True)
    (tmp_path / "a/tta/config.json").write_text('{"model_type": "bert"}')
    assert "two folders are called tta" in fails(space, folders["tta"], tmp_path / "a/tta")
    assert "one line" in fails(space, folders["tta"], "--title", 'a"b')
    assert "is inside" in fails(tmp_path, tmp_path / "a/tta")
    with monkeypatch.context() as patch:
        patch.setattr(script.metadata, "version", lambda name: script.metadata.distribution(f"no-{name}").version)
        assert 'the demo needs gradio: pip install "suzoo[demo]"' in fails(space, folders["tta"])
    (tmp_path / "precious.txt").touch()
    assert "is not empty" in fails(tmp_path, folders["tta"], "--overwrite")
    assert not space.exists() and (tmp_path / "precious.txt").exists()


@pytest.mark.slow
def test_the_space_runs_by_itself(script, folders, tmp_path):
    import gradio_client

    space = tmp_path / "space"
    assert script.main([str(space), folders["encoder"]]) == 0
    code = "import suzoo.demo, runpy; print(suzoo.__file__, flush=True); runpy.run_path('app.py', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=space, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline().strip() == str(space / "suzoo/__init__.py")
            url = process.stdout.readline().split()[-1]
            client = gradio_client.Client(url, verbose=False)
            assert "Most alike: 1 and 2" in client.predict("encoder", "a\na dog", api_name="/compare")
        finally:
            process.kill()
