"""ChatSession: with the cache as without, at turn boundaries, over the budget, saved and loaded."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, TextStreamer

from suzoo.data.vocabulary import without_inner_spaces
from suzoo.decoding import ChatSession, MMIReranker, SelfTerminatingHead
from suzoo.decoding.chat import ReplyNoRepeatNGram
from suzoo.models._dialogue import SPEAKER_TOKENS, Turn
from tests.models.tiny import POSITIONS, tiny, tiny_tokenizer

TALK = ["今天天气很好", "我你他", "吃饭了吗", "是", "在这上大", "今天", "来和国去"]
LAYOUTS = ("blog", "cdial", "dialogpt")


def tokenizer_of(layout: str):
    tokenizer = tiny_tokenizer()
    if layout == "cdial":
        tokenizer.add_special_tokens({"extra_special_tokens": list(SPEAKER_TOKENS)})
    return without_inner_spaces(tokenizer)


def chat(layout: str = "blog", positions: str = "absolute", **options) -> ChatSession:
    tokenizer = tokenizer_of(layout)
    model = tiny("dialogpt", layout=layout, position_embedding_type=positions, vocab_size=len(tokenizer))
    return ChatSession(model, tokenizer, **{"max_new_tokens": 5, "do_sample": False, **options})


class Spy:
    """Counts the tokens a model reads, and keeps the logits of what it samples."""

    def __init__(self, session: ChatSession) -> None:
        self.lengths, self.logits = [], []
        session.model.bert.embeddings.register_forward_hook(
            lambda module, inputs, output: self.lengths.append(output.shape[1])
        )
        session.model.register_forward_hook(
            lambda module, inputs, output: self.logits.append(output.logits[:, -1].clone())
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_cached_chat_equals_recomputing(layout, positions):
    cached, anew = chat(layout, positions), chat(layout, positions, reuse_cache=False)
    spy, full = Spy(cached), Spy(anew)
    for text in TALK:
        assert cached.reply(text) == anew.reply(text)
    assert cached.turns == anew.turns
    torch.testing.assert_close(torch.cat(spy.logits), torch.cat(full.logits), rtol=0, atol=1e-10)
    assert sum(spy.lengths) < sum(full.lengths) / 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_turn_reads_the_pending_token_and_the_new_turn_only(layout):
    session = chat(layout)
    spy = Spy(session)
    for text in TALK[:4]:
        before, known = len(spy.lengths), len(session._cached.input_ids)
        session.reply(text)
        prompt = session.layout.render_prompt(session._window[:-1], 1).input_ids
        assert spy.lengths[before] == len(prompt) - known  # the pending token and the turn, whoever ended it
        assert all(length == 1 for length in spy.lengths[before + 1 :])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_over_the_budget_the_window_is_halved_at_turn_boundaries_and_stays_exact(layout):
    session, anew = chat(layout, max_tokens=40), chat(layout, max_tokens=40, reuse_cache=False)
    spy, full = Spy(session), Spy(anew)
    trims = 0
    for number in range(20):
        text = TALK[number % len(TALK)]
        before = session._window
        assert session.reply(text) == anew.reply(text)
        kept = session._window[:-2]
        assert kept == before[len(before) - len(kept) :]
        assert [turn.speaker for turn in session._window][-2:] == [0, 1]
        if len(kept) < len(before):
            trims += 1
            assert session.layout.num_tokens(session._window[:-1]) <= 20
        assert session.layout.num_tokens(session._window) <= 41  # a cut-off reply is given its [SEP] later
    assert 0 < trims < 10  # not in every turn
    torch.testing.assert_close(torch.cat(spy.logits), torch.cat(full.logits), rtol=0, atol=1e-10)
    assert len(session.turns) == 40


def test_a_text_longer_than_the_budget_is_cut_at_its_front():
    session = chat(max_tokens=24)
    session.reply("今" * 50 + "很好")
    heard = session._window[0]
    assert session.layout.num_tokens([heard]) == 12
    assert heard.ids[-2:] == tuple(session.tokenizer("很好", add_special_tokens=False).input_ids)
    assert len(session.turns[0].ids) == 52


def test_save_and_load_continue_in_the_same_state(tmp_path):
    session = chat(max_tokens=40)
    for text in TALK:
        session.reply(text)
    session.save(tmp_path / "chat.json")
    other = chat(max_tokens=40)
    other.load(tmp_path / "chat.json")
    assert other.history == session.history and other._window == session._window
    assert [role for role, _ in other.history[:2]] == ["user", "assistant"] and other.history[0][1] == TALK[0]
    assert other.reply("今天") == session.reply("今天")
    with pytest.raises(ValueError, match="layout blog"):
        chat("dialogpt").load(tmp_path / "chat.json")
    content = (tmp_path / "chat.json").read_text().replace(TALK[0], "好")
    (tmp_path / "chat.json").write_text(content)
    with pytest.raises(ValueError, match="turn 0 says something else"):
        other.load(tmp_path / "chat.json")
    session.reset()
    assert session.history == [] and session.reply(TALK[0]) == chat(max_tokens=40).reply(TALK[0])


def test_load_takes_a_list_of_texts(tmp_path):
    session = chat(max_tokens=60)
    said = session.reply(TALK[0])
    (tmp_path / "talk.json").write_text(json.dumps([TALK[0], said]))
    other = chat(max_tokens=60)
    other.load(tmp_path / "talk.json")
    assert other.history == session.history and other.reply(TALK[1]) == session.reply(TALK[1])


@pytest.mark.parametrize("content", ["{}", "3", "[1]", '{"layout": "cdial", "window": 1, "turns": ["a"]}'])
def test_load_refuses_what_is_no_history(tmp_path, content):
    session = chat(max_tokens=60)
    session.reply(TALK[0])
    before = session.history
    (tmp_path / "talk.json").write_text(content)
    with pytest.raises(ValueError, match=r"talk\.json is neither a saved history nor a list of texts"):
        session.load(tmp_path / "talk.json")
    (tmp_path / "talk.json").write_text("hello")
    with pytest.raises(ValueError, match=r"talk\.json is not JSON"):
        session.load(tmp_path / "talk.json")
    assert session.history == before


def test_sampling_is_the_articles_and_reproducible():
    session, again = chat(do_sample=True), chat(do_sample=True)
    assert session.sampling == {"do_sample": True, "top_k": 5, "top_p": 1.0, "temperature": 1.0}
    replies = []
    for talker in (session, again):
        torch.manual_seed(0)
        replies.append([talker.reply(text) for text in TALK[:3]])
    assert replies[0] == replies[1]
    torch.manual_seed(1)
    assert [chat(do_sample=True).reply(text) for text in TALK[:3]] != replies[0]


def test_replies_hold_no_special_token_and_special_text_is_text(capsys):
    session = chat()
    with torch.no_grad():
        session.model.cls.predictions.bias[[0, 1, 40]] += 100  # [PAD], [CLS], [MASK]
        session.model.cls.predictions.bias[2] += 50  # and [SEP] right after, which may not end an empty reply
    streamer = TextStreamer(session.tokenizer, skip_prompt=True, skip_special_tokens=True)
    reply = session.reply("我[SEP]你", streamer=streamer)
    assert capsys.readouterr().out.strip() == reply
    heard, said = session.turns
    assert 2 not in heard.ids and not {0, 1, 2, 40} & set(said.ids) and len(said.ids) == 1
    with pytest.raises(ValueError, match="no tokens"):
        session.reply("")
    assert len(session.turns) == 2


def test_repetition_guard_sees_the_reply_only():
    rule = ReplyNoRepeatNGram(4, 2)
    scores = torch.zeros(1, 6)
    history_only = rule(torch.tensor([[1, 2, 1, 2, 5, 1]]), scores)
    assert torch.isfinite(history_only).all()
    repeated = rule(torch.tensor([[0, 0, 0, 0, 1, 2, 1]]), scores)
    assert repeated[0, 2] == -torch.inf and torch.isfinite(repeated[0, [0, 1, 3, 4, 5]]).all()
    looping = chat(max_new_tokens=16, no_repeat_ngram_size=0)
    with torch.no_grad():
        for session in (looping,):
            session.model.cls.predictions.bias[9] += 1000
    looping.reply("今天")
    assert set(looping.turns[1].ids) == {9}
    guarded = ChatSession(looping.model, looping.tokenizer, max_new_tokens=16, do_sample=False, no_repeat_ngram_size=2)
    guarded.reply("今天")
    pairs = list(zip(guarded.turns[1].ids, guarded.turns[1].ids[1:], strict=False))
    assert len(set(pairs)) == len(pairs)


def test_stock_folders_and_other_models_chat_alike(tmp_path):
    session = chat("dialogpt")
    session.model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    other = ChatSession(stock, session.tokenizer, max_new_tokens=5, do_sample=False)
    assert [other.reply(text) for text in TALK] == [session.reply(text) for text in TALK]
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=41, n_embd=16, n_layer=2, n_head=2, n_positions=64)).eval().double()
    cached, anew = (
        ChatSession(
            gpt2,
            tiny_tokenizer(),
            layout="dialogpt",
            max_new_tokens=5,
            do_sample=False,
            max_tokens=64,
            reuse_cache=reuse,
        )
        for reuse in (True, False)
    )
    assert [cached.reply(text) for text in TALK] == [anew.reply(text) for text in TALK]


def test_refuses_what_cannot_be_right():
    model, tokenizer = tiny("dialogpt"), tiny_tokenizer()
    with pytest.raises(ValueError, match="needs a DialoGPTForCausalLM"):
        ChatSession(model, tokenizer, layout="blog")
    with pytest.raises(ValueError, match=r"\[speaker1\]"):
        ChatSession(model, tokenizer, layout="cdial")
    with pytest.raises(ValueError, match="does not say"):
        ChatSession(tiny("unilm"), tokenizer)
    with pytest.raises(ValueError, match="under half"):
        ChatSession(model, tokenizer, max_tokens=20, max_new_tokens=10)


def reranked(positions: str = "absolute", layout: str = "blog", **options) -> ChatSession:
    tokenizer = tokenizer_of(layout)
    backward = tiny("dialogpt", layout=layout, vocab_size=len(tokenizer), seed=5)
    reranker = MMIReranker(backward, tokenizer)
    return chat(layout, positions, do_sample=True, top_k=20, reranker=reranker, num_candidates=6, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_reply_is_the_candidate_from_which_the_history_is_guessed_best(layout, positions):
    session, anew = reranked(positions, layout), reranked(positions, layout, reuse_cache=False)
    seen = []
    order = session.reranker.order

    def spy(history, candidates):
        seen.append((history, candidates, order(history, candidates)))
        return seen[-1][-1]

    session.reranker.order = spy
    for number, text in enumerate(TALK[:4]):
        torch.manual_seed(number)
        said = session.reply(text)
        torch.manual_seed(number)
        assert said == anew.reply(text)  # the cache that is kept is that of the chosen candidate
        history, candidates, best = seen[-1]
        assert said == candidates[best[0]] and len(set(candidates)) > 1
        assert [text for _, text in history] == [text for _, text in session.history[:-1]]
        assert session._cache.get_seq_length() == len(session._cached.input_ids)
        assert history[-1] == (0, session.history[-2][1])


def test_a_chosen_reply_is_streamed_at_once(capsys):
    session = reranked()
    said = session.reply(TALK[0], streamer=TextStreamer(session.tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out == said + "\n"


def test_what_does_not_fit_the_backward_model_is_left_out():
    session = reranked("rope", max_tokens=400)
    session.reranker.max_tokens = 24
    for text in TALK:
        session.reply(text)
    with pytest.raises(ValueError, match="a reranker chooses among two or more"):
        chat(num_candidates=3)
    with pytest.raises(ValueError, match="greedy search"):
        chat(reranker=session.reranker, num_candidates=3)


def test_consistent_sampling_in_a_chat():
    """The end is never among the two likeliest tokens of this model; one in five steps it is sampled nevertheless."""
    lengths = {}
    for consistent in (False, True):
        session = chat("dialogpt", do_sample=True, top_k=2, max_new_tokens=25, consistent=consistent, temperature=1.5)
        output = session.model.cls.predictions.decoder
        output.weight.data.zero_()
        output.bias.data.fill_(0.0)
        output.bias.data[[5, 6]] = 0.1
        heard = [Turn.of_text(session.tokenizer, TALK[0], 0)]
        lengths[consistent] = [len(session._generate(heard, None)) for _ in range(10)]
    assert min(lengths[False]) == 25 and sum(lengths[True]) < 150
    with pytest.raises(ValueError, match="greedy"):
        chat(consistent=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_self_terminating_model_ends_its_replies_whatever_its_class(layout):
    session = chat(layout, max_new_tokens=25, no_repeat_ngram_size=0)
    session.model.cls.predictions.decoder.bias.data[2] = -30.0
    assert len(session._generate([Turn.of_text(session.tokenizer, TALK[0], 0)], None)) == 25
    SelfTerminatingHead(2, 0.1).write(session.model.config)
    assert len(session._generate([Turn.of_text(session.tokenizer, TALK[0], 0)], None)) < 7
