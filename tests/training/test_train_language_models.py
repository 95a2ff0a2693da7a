"""train_dialogpt.py, train_unilm.py and train_tta.py as a user runs them: trained, scored, verified, in every way."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path

from recipes import frame, labelled, tta
from recipes.base import Training
from recipes.choices import configure, sizes

import pytest
import torch
import train_dialogpt
import train_tta
import train_unilm
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from suzoo.data import add_tokens, train_unigram
from suzoo.decoding import ChatSession
from suzoo.distributed import rank
from suzoo.models import DialoGPTForCausalLM, TTAForMaskedLM, UniLMForCausalLM
from suzoo.models._dialogue import SPEAKER_TOKENS
from suzoo.optimizers import ParameterSearch
from tests.hub.folders import open_doors_here
from tests.models.tiny import tiny, tiny_tokenizer
from tests.training.scripts import refused, run, run_on_two_ranks

TINY = "--hidden-size 32 --num-layers 1 --max-train-samples 96 --max-dev-samples 16 --epochs 1 --max-scored 2"
TINY = [*TINY.split(), *["--micro-batch-tokens", "1024", "--cpu-threads", "1"]]
SCRIPTS = {"dialogpt": train_dialogpt, "unilm": train_unilm, "tta": train_tta}


@pytest.fixture
def unpublished(monkeypatch):
    """No card and doors: other tests open those."""
    monkeypatch.setattr(frame, "publish", lambda *args: None)


def dev_losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["dev"]["loss"] for line in lines if "dev" in line]


WAYS = {
    "dialogpt": [
        "--layout blog --positions nezha",
        "--layout dialogpt --learn replies --gradient-checkpointing",
        "--reverse --micro-batches 2",
        "--chunk-size 64 --precision bf16 --attention elu1 --positions none",
        "--self-terminating monotonic --epsilon 1e-3",
    ],
    "unilm": [
        "--self-terminating non_monotonic --positions alibi --window 16 --sinks 1",
        "--tailr 0.1 --random-replacement 0.5 --positions rope",
        "--rdrop 4 --micro-batches 2",
        "--fgm 0.5 --optimizer lion --lr 3e-4",
        "--label-smoothing 0.1 --num-beams 2 --chunk-size 64",
    ],
    "tta": [
        "--query-init position --chunk-size 64",
        "--positions kerple_log --micro-batches 2 --log-n train --random-positions 60",
        "--objective mlm --typos None --words jieba",
        "--objective mlm --typos None --precision bf16",
    ],
}


@pytest.mark.parametrize(("name", "flags"), [(name, flags) for name in WAYS for flags in WAYS[name]])
def test_every_way_of_training_learns_something(tmp_path, monkeypatch, unpublished, name, flags):
    folder = tmp_path / "run"
    run(monkeypatch, SCRIPTS[name], "quickstart", "--output-dir", folder, *TINY, "--epochs", "3", *flags.split())
    found = dev_losses(folder)
    assert len(found) == 3 and found[-1] < found[0]
    scores = json.loads((folder / "metrics.json").read_text())
    assert all(value == value for split in scores.values() for value in split.values())


def test_a_model_from_scratch_has_as_many_positions_as_are_drawn():
    drawn = dataclasses.replace(tta.quickstart(), random_positions=500)
    assert sizes(drawn, tiny_tokenizer())["max_position_embeddings"] == 500
    equal_mean = dataclasses.replace(tta.quickstart(), random_positions="equal_mean")
    assert sizes(equal_mean, tiny_tokenizer()) == sizes(tta.quickstart(), tiny_tokenizer())


def test_a_chat_model_that_opens_without_us(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run(monkeypatch, train_dialogpt, "scratch", "--output-dir", folder, *TINY)
    assert f"verified: {folder}" in capsys.readouterr().out
    assert {"last turn", "last turn, without history"} < json.loads((folder / "metrics.json").read_text()).keys()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "你好"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = tokenizer.decode(model.generate(**prompt)[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert " " not in reply
    open_doors_here(monkeypatch)
    continued = tmp_path / "continued"
    flags = ["--model", folder, "--max-length", "256"]  # as many as there are positions: replies need room
    run(monkeypatch, train_dialogpt, "scratch", *flags, "--output-dir", continued, *TINY)
    assert DialoGPTForCausalLM.from_pretrained(continued).config.layout == "cdial"
    assert isinstance(ChatSession(model, tokenizer, max_new_tokens=8).reply("你好"), str)


def test_titles_and_their_model(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run(monkeypatch, train_unilm, "quickstart", "--output-dir", folder, *TINY)
    assert f"verified: {folder}" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text())["generated"].keys() > {"rouge_l", "bleu", "bleu_mean"}
    model = UniLMForCausalLM.from_pretrained(folder)
    both = model.generate_texts(["北京的一家公司招人", "上海"], max_new_tokens=5)
    assert both == [model.generate_texts([text], max_new_tokens=5)[0] for text in ("北京的一家公司招人", "上海")]


def test_titles_from_an_encoder_whose_tokenizer_gives_no_token_types(tmp_path, monkeypatch, capsys):
    base, folder = tmp_path / "base", tmp_path / "run"
    tokenizer = train_unigram(["北京的一家公司招人", "上海今天天气很好"] * 20, vocab_size=40)
    tokenizer.model_input_names, tokenizer.model_max_length = ["input_ids", "attention_mask"], 64
    tokenizer.save_pretrained(base)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=40, **shape)).save_pretrained(base)
    run(monkeypatch, train_unilm, "quickstart", "--model", base, "--output-dir", folder, *TINY)
    assert f"verified: {folder}" in capsys.readouterr().out
    opened = AutoTokenizer.from_pretrained(folder)
    assert opened("北京", "上海")["token_type_ids"].count(1) > 1
    assert opened.model_max_length == 128  # of the recipe, which is longer than the encoder's


def test_titles_are_trained_on_their_own_score(tmp_path, monkeypatch, unpublished):
    base, folder = tmp_path / "base", tmp_path / "run"
    run(monkeypatch, train_unilm, "quickstart", "--output-dir", base, *TINY, "--epochs", "4", "--lr", "3e-3")
    seen = []
    search_step = ParameterSearch.step

    def step(self, task_loss=None):
        loss = search_step(self, task_loss)
        seen.append(self.result)
        return loss

    monkeypatch.setattr(ParameterSearch, "step", step)
    run(monkeypatch, train_unilm, "own_metric", "--model", base, "--output-dir", folder, *TINY, "--max-scored", "16")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    dev = [line["dev"] for line in lines if "dev" in line]
    assert dev[-1].keys() == {"loss", "perplexity", "rouge_l"}
    assert len(seen) == max(line["step"] for line in lines) and len(seen[0].candidates) == 4
    assert all(0 <= value <= 1 for result in seen for value in (result.current, *result.candidates))
    assert any(len(set(result.candidates)) > 1 for result in seen)  # the candidates write different titles
    scores = json.loads((folder / "metrics.json").read_text())
    best = max(found["rouge_l"] for found in dev)
    assert scores["dev"]["rouge_l"] == pytest.approx(best)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(*(load_file(f / "model.safetensors").values() for f in (base, folder)), strict=True)
    )


def test_t_ta_and_its_baseline_start_from_each_other(tmp_path, monkeypatch, capsys):
    baseline, folder = tmp_path / "mlm", tmp_path / "tta"
    flags = ("--objective", "mlm", "--typos", "None")
    with monkeypatch.context() as patch:
        open_doors_here(patch)
        run(patch, train_tta, "quickstart", "--output-dir", baseline, *TINY, *flags)
    run(monkeypatch, train_tta, "quickstart", "--output-dir", folder, "--model", baseline, *TINY)
    printed = capsys.readouterr().out
    assert f"verified: {baseline}" in printed and f"verified: {folder}" in printed
    assert json.loads((folder / "metrics.json").read_text())["typos"].keys() > {"correction_f1"}
    assert type(AutoModelForMaskedLM.from_pretrained(baseline)).__name__ == "BertForMaskedLM"
    scores = TTAForMaskedLM.from_pretrained(folder).score(["今天天气很好"])
    assert torch.isfinite(scores).all()
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 128  # the positions
    seq2seq = tmp_path / "unilm"
    run(monkeypatch, train_unilm, "scratch", "--model", baseline, "--output-dir", seq2seq, *TINY, "--max-length", "100")


def test_any_causal_language_model_learns_dialogues(tmp_path, monkeypatch, unpublished):
    run(monkeypatch, train_dialogpt, "scratch", "--output-dir", tmp_path / "ours", *TINY)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer) - 2, n_embd=32, n_layer=1, n_head=2, n_positions=256)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    folder = tmp_path / "run"
    flags = ["--model", tmp_path / "gpt2", "--lora-r", "2", "--layout", "cdial"]
    run(monkeypatch, train_dialogpt, "quickstart", "--output-dir", folder, *TINY, *flags)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "gpt2" and model.config.layout == "cdial"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)

    end_only = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]")
    end_only.save_pretrained(tmp_path / "gpt2")
    run(
        monkeypatch, train_dialogpt, "quickstart", "--output-dir", tmp_path / "end", *TINY, "--model", tmp_path / "gpt2"
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "end").config.layout == "dialogpt"
    rendered = AutoTokenizer.from_pretrained(tmp_path / "end").apply_chat_template(
        [{"role": "user", "content": "你好"}], tokenize=False
    )
    assert rendered == "你好[SEP]"


def test_lora_is_merged(tmp_path, monkeypatch, unpublished):
    base, folder = tmp_path / "base", tmp_path / "run"
    run(monkeypatch, train_unilm, "quickstart", "--output-dir", base, *TINY)
    run(monkeypatch, train_unilm, "quickstart", "--model", base, "--lora-r", "2", "--output-dir", folder, *TINY)
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("family", ["ours", "gpt2"])
def test_lora_learns_the_rows_of_added_tokens(family):
    """The head shares the weight: its rows are those of the embeddings before, during and after the merge."""
    tokenizer = add_tokens(tiny_tokenizer(), SPEAKER_TOKENS, special=True)
    model = tiny("dialogpt", layout="cdial", vocab_size=43)
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=43, n_embd=32, n_layer=1, n_head=2)).double().eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[42] = model.get_input_embeddings().weight[41]
    before = copy.deepcopy(model.state_dict())
    adapted = configure(Training(data=(), lora_r=2), model.base_model, tokenizer, model.get_output_embeddings())
    setattr(model, model.base_model_prefix, adapted)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.tensor([[1, 41, 4, 5, 42, 6, 7, 41, 8, 2]])
    swapped = torch.where(ids == 41, 42, torch.where(ids == 42, 41, ids))
    other = copy.deepcopy(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    trained, of_swapped = model(input_ids=ids).logits, model(input_ids=swapped).logits
    assert (trained - of_swapped).abs().max() > 1e-3
    assert (other(input_ids=ids).logits - trained).abs().max() > 1e-3  # a copy does not look back
    setattr(model, model.base_model_prefix, adapted.merge_and_unload())
    torch.testing.assert_close(model(input_ids=ids).logits, trained, rtol=0, atol=1e-9)
    rows = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is rows and model.state_dict().keys() == before.keys()
    old = before[next(name for name, value in before.items() if value.shape == rows.shape)]
    assert torch.equal(rows[:41], old[:41]) and not torch.equal(rows[41], rows[42])


LONGER = ["tta", "unilm", "dialogpt", "dialogpt --lora-r 4 --layout cdial"]


@pytest.mark.parametrize(
    "flags", ["tta --lora-r 4", *(pytest.param(flags, marks=pytest.mark.slow) for flags in LONGER)]
)
def test_two_processes_and_shards_train_the_same_model(tmp_path, flags):
    """The shipped Accelerate configs, over CPU processes: data parallel and FSDP2 end at the weights of each other."""
    name, *flags = flags.split()
    flags += [*TINY, "--micro-batches", "2", "--micro-batch-tokens", "256"]
    flags += ["--objective", "mlm", "--typos", "None"] if name == "tta" else []
    for config in ("ddp_cpu", "fsdp2_cpu"):
        run_on_two_ranks(config, SCRIPTS[name], "quickstart", "--output-dir", tmp_path / config, *flags)
    together, sharded = (load_file(tmp_path / config / "model.safetensors") for config in ("ddp_cpu", "fsdp2_cpu"))
    assert together.keys() == sharded.keys()
    for key, value in together.items():
        torch.testing.assert_close(value, sharded[key], atol=1e-4, rtol=1e-3)


def save_the_weights_of_each(folder: Path) -> None:
    """On a rank: behind the loop its weights go into a file of its own."""
    fit = train_unilm.fit

    def fit_and_save(step, **options):
        result = fit(step, **options)
        torch.save(options["accelerator"].unwrap_model(options["model"]).state_dict(), folder / f"{rank()}.pt")
        return result

    train_unilm.fit = fit_and_save


def test_two_processes_search_parameters_as_one_does(tmp_path, monkeypatch, unpublished):
    """A score is a mean over texts and ranks: with as many texts everywhere, two ranks take the step of one process."""
    characters = "今天气很好我你他是的不在有人这上大来和国去吃饭了吗呢"
    rows = [(characters[i : i + 8], characters[i + 1 : i + 5]) for i in range(16)] * 3
    data = tmp_path / "data.tsv"
    data.write_text("source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in rows))
    flags = [*TINY, "--data", data, "--dev", data, "--dropout", "0", "--seed", "3"]
    base = tmp_path / "base"
    longer = ["--epochs", "25", "--lr", "3e-3", "--micro-batch-tokens", "240"]
    run(monkeypatch, train_unilm, "quickstart", "--output-dir", base, *flags, *longer)
    # rows of 15 tokens: 8 in a micro-batch
    flags += ["--model", base, "--micro-batch-tokens", "120", "--max-scored", "16", "--lr", "1e-3"]
    flags += ["--evaluate-every", "2"]
    run(monkeypatch, train_unilm, "own_metric", "--output-dir", tmp_path / "one", *flags, "--micro-batches", "2")

    arguments = ["own_metric", "--output-dir", tmp_path / "two", *flags]
    run_on_two_ranks("ddp_cpu", train_unilm, *arguments, before=functools.partial(save_the_weights_of_each, tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in two] == [line["step"] for line in one] == [2, 3, 3]  # each score once
    assert 0 < two[0]["dev"]["rouge_l"] < two[-1]["dev"]["rouge_l"] < 1  # the score tells candidates apart
    for ours, theirs in zip(two, one, strict=True):
        assert ours.get("dev") == pytest.approx(theirs.get("dev"), abs=1e-4)
    before, alone, together = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "one", "two"))
    assert any(not torch.equal(value, before[key]) for key, value in alone.items())
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, atol=1e-4, rtol=1e-3)


def test_what_a_user_can_get_wrong(tmp_path, monkeypatch, capsys):
    def message(script, *arguments):
        return refused(monkeypatch, capsys, script, "quickstart", "--output-dir", tmp_path / "run", *TINY, *arguments)

    assert "choose one" in message(train_unilm, "--tailr", "0.1", "--rdrop", "4")
    assert "--chunk-size takes apart" in message(train_unilm, "--rdrop", "4", "--chunk-size", "8")
    assert "corrected by T-TA" in message(train_tta, "--objective", "mlm")
    assert "absolute only" in message(train_tta, "--objective", "mlm", "--typos", "None", "--positions", "rope")
    assert "more than the 16 of a micro-batch" in message(train_dialogpt, "--micro-batch-tokens", "16", "--overwrite")
    flags = ["--positions", "absolute", "--max-scored", "0"]
    run(monkeypatch, train_dialogpt, "quickstart", "--output-dir", tmp_path / "short", *TINY, *flags)
    assert "--max-length 500, but" in message(
        train_unilm, "--model", tmp_path / "short", "--max-length", "500", "--overwrite"
    )
    without_mask = AutoTokenizer.from_pretrained(tmp_path / "short")
    without_mask.mask_token = None
    without_mask.save_pretrained(tmp_path / "no mask")
    for objective in ("tta", "mlm"):
        flags = ["--vocabulary", tmp_path / "no mask", "--objective", objective, "--typos", "None", "--overwrite"]
        assert "has no [MASK], which this model needs" in message(train_tta, *flags)
    cut = DialoGPTForCausalLM.from_pretrained(tmp_path / "short")
    cut.resize_token_embeddings(4)  # [MASK] is the fifth token
    cut.save_pretrained(tmp_path / "cut")
    AutoTokenizer.from_pretrained(tmp_path / "short").save_pretrained(tmp_path / "cut")
    for objective in ("tta", "mlm"):
        flags = ["--model", tmp_path / "cut", "--objective", objective, "--typos", "None", "--overwrite"]
        sentence = message(train_tta, *flags)
        assert "outside the vocabulary of 4" in sentence or "the model 4 rows: they do not belong" in sentence
    long = ["--max-new-tokens", "450", "--overwrite"]
    assert "--max-new-tokens 450 leaves no position" in message(train_dialogpt, *long)
    assert "--num-beams must be 1 or more" in message(train_unilm, "--num-beams", "0")
    flags = ["--resume", "--output-dir", tmp_path / "short", "--num-layers", "2", "--positions", "absolute"]
    assert "began with --num-layers 1, not 2" in message(train_dialogpt, *flags)
    (tmp_path / "bad.jsonl").write_text('{"turns": ["hello"]}\n')
    assert "turns must be a list of two or more" in message(
        train_dialogpt, "--data", tmp_path / "bad.jsonl", "--dev", tmp_path / "bad.jsonl", "--overwrite"
    )


def test_dev_losses_of_ranks_and_of_one_are_the_same():
    class Counting(torch.nn.Module):
        def forward(self, labels, **inputs):
            return labels[labels != -100].sum()

    batches = [{"labels": torch.tensor([[1, 2, -100]])}, {"labels": torch.tensor([[4, -100, -100]])}]
    found = labelled.dev_loss(Counting(), batches, torch.device("cpu"))
    assert found["loss"] == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    ("name", "flags"), [("tta", "--objective mlm --typos None"), ("unilm", "--random-replacement 1")]
)
def test_a_run_that_was_cut_resumes_to_the_same_bits(tmp_path, monkeypatch, unpublished, name, flags):
    """Masks, replaced tokens and dropout are drawn as in the run that was never cut."""
    flags = [*TINY, "--epochs", "3", "--max-scored", "0" if name == "unilm" else "2", *flags.split()]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(monkeypatch, SCRIPTS[name], "quickstart", "--output-dir", whole, *flags)
    calls, dev_loss = [], SCRIPTS[name].dev_loss

    def power_cut(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return dev_loss(*arguments)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(SCRIPTS[name], "dev_loss", power_cut)
        run(patch, SCRIPTS[name], "quickstart", "--output-dir", cut, *flags)
    run(monkeypatch, SCRIPTS[name], "quickstart", "--output-dir", cut, "--resume", *flags)
    one, other = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
    assert all(torch.equal(value, other[key]) for key, value in one.items())
