"""One set of tiny folders, opened once, and one page served for the tests of the process and of the browser."""

from __future__ import annotations

import pytest

from suzoo.demo.models import open_models
from tests.demo.folders import make_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def opened(folders):
    """{kind: the opened model}; read only."""
    return {one.kind: one for one in open_models(list(folders.values()))}


@pytest.fixture(scope="session")
def served(opened):
    """The running page of all of them."""
    pytest.importorskip("gradio", reason='the demo needs gradio: pip install "suzoo[demo]"')
    from suzoo.demo.page import serve

    app = serve(list(opened.values()), title="suzoo's models", host="127.0.0.1", port=None, block=False)
    yield app
    app.close()
