"""A page in the browser for any set of saved models: `suzoo demo FOLDER…`, or the app of a Gradio Space.

`models` opens the folders, `answers` makes texts of what the models say, `page` lays them out. Needs the extra "demo".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def launch(
    names: Sequence[str],
    *,
    host: str | None = None,
    port: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    layout: str | None = None,
    trust_remote_code: bool = False,
    title: str = "suzoo",
    block: bool = True,
) -> Any:
    """Open the models and serve their page until the process is interrupted.

    Nothing is sent to another machine: no analytics, no fonts, no scripts. Models named by a folder are read from it;
    others come from the Hub.

    Args:
        names: folders of saved models, or their names on the Hub; each kind of model brings its tabs.
        host: the address to listen at; default GRADIO_SERVER_NAME, else 127.0.0.1, which other machines do not reach.
        port: default GRADIO_SERVER_PORT, else the first free one from 7860 on.
        device, dtype: as in the `suzoo` command.
        layout: of chats whose model does not say it: `cdial` or `dialogpt`.
        trust_remote_code: run code that a model brings along.
        title: of the page.
        block: return only when the server ends; else the running `gradio.Blocks`, whose `close()` ends it.

    Raises:
        ValueError: gradio is not installed; a model cannot be opened or has nothing to show; the port is taken.
    """
    from suzoo.demo.models import open_models
    from suzoo.demo.page import serve

    opened = open_models(names, device=device, dtype=dtype, layout=layout, trust_remote_code=trust_remote_code)
    return serve(opened, title=title, host=host, port=port, block=block)
