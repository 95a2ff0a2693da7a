"""The page of a demo: a tab for each task that one of the models can do. The answers come from `suzoo.demo.answers`.

One request computes at a time: the models are shared, and an explanation puts hooks on them.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from suzoo.demo import answers
from suzoo.demo.models import TASKS, Opened, able
from suzoo.terminal import is_mistake, sentence

# read when gradio is imported
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
try:
    import gradio as gr
except ImportError as error:
    raise ValueError('the demo needs gradio: pip install "suzoo[demo]"') from error

NONE = "none"
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "models"}
CSS = """
.dark{--color-accent:var(--primary-400)}
.sz-scroll{overflow-x:auto;max-width:100%}
.sz-scroll table{border-collapse:collapse}
.sz-scroll td,.sz-scroll th{padding:.25em .5em;text-align:left;font-weight:normal;vertical-align:top}
.sz-scroll tr:first-child th{font-weight:bold}
.sz-scroll td,.sz-scroll th{border:1px solid var(--border-color-primary)}
.sz-large{font-size:1.25em;line-height:1.7;overflow-wrap:anywhere}
.sz-large del{background:#f7c9c2;color:#000;padding:0 .1em}
.sz-large ins{background:#bfe5c8;color:#000;padding:0 .1em}
.sz-corrected{overflow-wrap:anywhere}
.sz-tokens{line-height:2.2;overflow-wrap:anywhere}
.sz-tokens span{color:#000;padding:.2em .25em;white-space:pre-wrap}
.sz-mistake{border-left:.3em solid #d55e00;padding:.4em .7em;font-weight:bold}
"""
EXAMPLES = {
    "sentences": "他买了三本书\n三本书被他买走了\n他没有买书\n今天天气很好\na man plays the flute\na flute is played",
    "query": "他买了书",
    "documents": "今天天气很好\n他在书店买了三本书\n她卖掉了旧书\nthe dog does not sleep",
    "message": "你好",
    "article": "星河公司昨天在上海宣布，将推出一款新型手机。这家公司的总部在北京。",
    "text": "今天天气很好，我们去公园散步吧",
    "pair": "天气不错，出去走走吧",
    "typo": "做天他在学笑买了三本书",
}


def serve(opened: Sequence[Opened], *, title: str, host: str | None, port: int | None, block: bool) -> gr.Blocks:
    """See `suzoo.demo.launch`."""
    app = page(opened, title)
    app.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        quiet=True,
        footer_links=[],
        # named by the system, so that nothing is fetched
        theme=gr.themes.Default(
            primary_hue="blue",
            font=["ui-sans-serif", "system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ).set(  # dark enough for white text, and for text on white
            button_primary_background_fill="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            color_accent="*primary_700",
        ),
        css=CSS,
    )
    print(f"{title}: {app.local_url}", flush=True)
    if block:
        app.block_thread()
    return app


def page(opened: Sequence[Opened], title: str) -> gr.Blocks:
    """The page, not yet served."""
    tabs = {
        "Compare": _compare,
        "Search": _search,
        "Chat": _chat,
        "Titles": _titles,
        "Spelling": _spelling,
        "Scores": _scores,
        "Explain": _explain,
    }
    assert list(tabs) == list(TASKS)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(f"# {title}\n\nModels: {', '.join(f'`{one.name}` ({one.kind})' for one in opened)}")
        with gr.Tabs():
            for task, tab in tabs.items():
                if models := able(opened, task):
                    with gr.Tab(task):
                        tab(models)
    return app


def _compare(models: list[Opened]) -> None:
    find, name = _choice(models)
    sentences = gr.Textbox(EXAMPLES["sentences"], label="Sentences, one on each line", lines=6, max_lines=12)
    button, output = gr.Button("Compare", variant="primary"), gr.HTML()

    def compare(model: str, sentences: str) -> str:
        return answers.compare(find(model), sentences)

    _on_click("compare", button, compare, [name, sentences], output)


def _search(models: list[Opened]) -> None:
    by_kind = {kind: [one for one in models if one.kind == kind] for kind in TASKS["Search"]}
    names = {kind: [NONE, *(one.name for one in some)] for kind, some in by_kind.items()}
    first, second = (
        gr.Dropdown(names[kind], value=names[kind][:2][-1], label=label, visible=bool(by_kind[kind]))
        for kind, label in (("encoder", "Find by vectors"), ("cross-encoder", "Order by pairs"))
    )
    query = gr.Textbox(EXAMPLES["query"], label="Query")
    documents = gr.Textbox(EXAMPLES["documents"], label="Documents, one on each line", lines=6, max_lines=12)
    num_best = gr.Slider(1, 50, 10, step=1, label="How many")
    button, output = gr.Button("Search", variant="primary"), gr.HTML()

    def search(encoder: str, cross_encoder: str, query: str, documents: str, num_best: int) -> str:
        chosen = (
            next((one for one in by_kind[kind] if one.name == name), None)
            for kind, name in zip(TASKS["Search"], (encoder, cross_encoder), strict=True)
        )
        return answers.search(*chosen, query, documents, int(num_best))

    _on_click("search", button, search, [first, second, query, documents, num_best], output, query)


def _chat(models: list[Opened]) -> None:
    find, name = _choice(models)
    folder = tempfile.TemporaryDirectory(prefix="suzoo-demo-")
    state = gr.State(time_to_live=6 * 3600)
    talk = gr.Chatbot(label="Conversation", height=380, render_markdown=False, buttons=[])  # what was typed
    message = gr.Textbox(EXAMPLES["message"], label="Message")
    note = gr.HTML()
    button = gr.Button("Send", variant="primary")
    with gr.Row():
        forget = gr.Button("Forget the conversation", size="sm")
        saved = gr.DownloadButton("Save it", interactive=False, size="sm")
        load = gr.UploadButton("Continue a saved one", file_types=[".json"], size="sm")
    with gr.Accordion("Sampling", open=False):
        top_k = gr.Slider(1, 100, 5, step=1, label="top_k")
        top_p = gr.Slider(0.05, 1, 1, step=0.05, label="top_p")
        temperature = gr.Slider(0.05, 2, 1, step=0.05, label="temperature")

    def session_of(session: Any, model: str) -> Any:
        """The user's session with this model; one with another model ends."""
        one = find(model)
        return session if session is not None and session.model is one.model else answers.open_chat(one)

    def download(session: Any) -> Any:
        path = Path(folder.name, str(id(session)), "conversation.json")
        path.parent.mkdir(exist_ok=True)
        session.save(path)
        return gr.DownloadButton(value=str(path), interactive=True)

    def reply(
        model: str, session: Any, talk: list, message: str, top_k: int, top_p: float, temperature: float
    ) -> Iterator[tuple]:
        before = shown = talk if session is not None else []
        session = session_of(session, model)
        try:
            session.set_sampling(do_sample=True, top_k=int(top_k), top_p=top_p, temperature=temperature)
            for said in answers.stream_reply(session, message):
                shown = [*before, {"role": "user", "content": message}, {"role": "assistant", "content": said}]
                yield session, shown, "", "", gr.skip()
            yield session, shown, "", "", download(session)
        except Exception as error:
            if not is_mistake(error):
                raise
            yield session, before, message, answers.mistake(sentence(error)), gr.skip()

    def reset() -> tuple:
        return None, [], "", gr.DownloadButton(interactive=False)

    def restore(model: str, path: str) -> tuple:
        session = session_of(None, model)
        try:
            session.load(path)
        except ValueError as error:
            message = sentence(error).replace(path, Path(path).name)
            return gr.skip(), gr.skip(), answers.mistake(message), gr.skip()
        messages = [{"role": role, "content": text} for role, text in session.history]
        return session, messages, "", download(session)

    gr.on(
        [button.click, message.submit],
        reply,
        [name, state, talk, message, top_k, top_p, temperature],
        [state, talk, message, note, saved],
        api_name="chat",
        show_progress="hidden",
        **ONE_AT_A_TIME,
    )
    gr.on([forget.click, talk.clear, name.change], reset, None, [state, talk, note, saved], api_name="forget")
    load.upload(restore, [name, load], [state, talk, note, saved], api_name="restore", **ONE_AT_A_TIME)


def _titles(models: list[Opened]) -> None:
    find, name = _choice(models)
    article = gr.Textbox(EXAMPLES["article"], label="Article", lines=6, max_lines=16)
    num_beams = gr.Slider(1, 8, 3, step=1, label="Beams")
    button, output = gr.Button("Write a title", variant="primary"), gr.HTML()

    def title(model: str, article: str, num_beams: int) -> str:
        return answers.title(find(model), article, int(num_beams))

    _on_click("title", button, title, [name, article, num_beams], output)


def _spelling(models: list[Opened]) -> None:
    find, name = _choice(models)
    text = gr.Textbox(EXAMPLES["typo"], label="Text", lines=2, max_lines=8)
    error_rate = gr.Slider(0.001, 0.2, 0.01, step=0.001, label="Share of tokens that are wrong: lower changes less")
    button, output = gr.Button("Correct", variant="primary"), gr.HTML()

    def spelling(model: str, text: str, error_rate: float) -> str:
        return answers.spelling(find(model), text, error_rate)

    _on_click("spelling", button, spelling, [name, text, error_rate], output)


def _scores(models: list[Opened]) -> None:
    find, name = _choice(models)
    text = gr.Textbox(EXAMPLES["text"], label="Text", lines=2, max_lines=8)
    button, output = gr.Button("Score", variant="primary"), gr.HTML()

    def scores(model: str, text: str) -> str:
        return answers.scores(find(model), text)

    _on_click("scores", button, scores, [name, text], output)


def _explain(models: list[Opened]) -> None:
    find, name = _choice(models)
    fields = _fields(models[0])
    text = gr.Textbox(EXAMPLES["text"], label="Text", lines=2, max_lines=8)
    pair = gr.Textbox(_second(models[0]), label="Second text", visible=fields["pair"])
    target = gr.Textbox(label="Class or token to explain; empty: the likeliest", visible=fields["target"])
    position = gr.Number(0, precision=0, minimum=0, label="Token to explain, from 0", visible=fields["position"])
    button, output = gr.Button("Explain", variant="primary"), gr.HTML()

    def explain(model: str, text: str, pair: str, target: str, position: int | None) -> str:
        return answers.explanation(find(model), text, pair, target, position)

    def show(model: str) -> list:
        values, fields = (_second(find(model)), "", 0), _fields(find(model))
        return [gr.update(value=value, visible=fields[name]) for value, name in zip(values, fields, strict=True)]

    name.change(show, name, [pair, target, position], api_visibility="private")
    _on_click("explain", button, explain, [name, text, pair, target, position], output)


def _fields(one: Opened) -> dict[str, bool]:
    """What of the second text, the target and the position an explanation of this model takes."""
    is_masked = one.kind in ("masked-lm", "tta")
    return {"pair": answers.reads_pair(one), "target": one.kind != "encoder", "position": is_masked}


def _second(one: Opened) -> str:
    """What stands in the field of the second text at first; a classifier may read one text only."""
    return EXAMPLES["pair"] if one.kind == "encoder" else ""


def _choice(models: list[Opened]) -> tuple[Callable[[str], Opened], gr.Dropdown]:
    """The model of a name, and the menu of names, which is hidden where there is no choice."""
    by_name = {one.name: one for one in models}

    def find(name: str) -> Opened:
        return by_name[name]

    return find, gr.Dropdown(list(by_name), value=models[0].name, label="Model", visible=len(models) > 1)


def _on_click(
    name: str, button: gr.Button, answer: Callable[..., str], inputs: list, output: gr.HTML, enter: Any = None
) -> None:
    """Show what `answer` says, or in its place the sentence about what was wrong with the input."""

    @functools.wraps(answer)
    def handler(*values: Any) -> str:
        try:
            return answer(*values)
        except Exception as error:
            if not is_mistake(error):
                raise
            return answers.mistake(sentence(error))

    triggers = [button.click, *([] if enter is None else [enter.submit])]
    gr.on(triggers, handler, inputs, output, api_name=name, **ONE_AT_A_TIME)
