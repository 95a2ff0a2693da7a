"""UniLM: equality with BERT on the source, every way to generate against the uncached forward, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    StaticCache,
    TextStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from suzoo.models import DialoGPTForCausalLM, UniLMForCausalLM
from tests.models.tiny import NEVER, POSITIONS, SIZES, source_target, tiny, tiny_tokenizer, tokens

PROMPTS = [5, 9, 7]  # lengths


def prompts(left: bool) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """A padded batch, its mask, and the rows alone."""
    rows = [tokens(length, seed=length) for length in PROMPTS]
    batch, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(9 - len(row), 9) if left else slice(0, len(row))
        batch[number, place], mask[number, place] = row, 1
    return batch, mask, rows


def greedy_by_hand(model: UniLMForCausalLM, prompt: torch.Tensor, steps: int, end: int | None = None) -> list[int]:
    """One full forward per token, no cache, no padding."""
    ids = prompt.tolist()
    for _ in range(steps):
        types = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        logits = model(torch.tensor([ids]), token_type_ids=torch.tensor([types]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_all_source_equals_stock_bert_exactly(implementation, tmp_path):
    torch.manual_seed(0)
    config = {key: value for key, value in SIZES.items() if not key.endswith(("relative_position", "_id"))}
    bert = BertForMaskedLM(BertConfig(**config)).eval()
    bert.save_pretrained(tmp_path)
    model = UniLMForCausalLM.from_pretrained(tmp_path).eval()
    ids = tokens(2, 9)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    for loaded in (bert, model):
        loaded.set_attn_implementation(implementation)
    for attention_mask in (None, mask):
        kwargs = {"attention_mask": attention_mask, "token_type_ids": torch.zeros_like(ids)}
        ours, stock = model(ids, **kwargs, use_cache=False).logits, bert(ids, **kwargs).logits
        keep = mask.bool() if attention_mask is not None else torch.ones_like(ids, dtype=torch.bool)
        assert torch.equal(ours[keep], stock[keep])


def test_no_source_equals_the_causal_model_with_type_one():
    unilm = tiny("unilm")
    causal = tiny("dialogpt", layout="blog")
    causal.load_state_dict(unilm.state_dict())
    ids = tokens(2, 8)
    ours = unilm(ids).logits  # no token types: all target
    torch.testing.assert_close(ours, causal(ids, token_type_ids=torch.ones_like(ids)).logits, rtol=0, atol=1e-10)
    assert isinstance(causal, DialoGPTForCausalLM)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("cache_class", [DynamicCache, StaticCache])
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-10), (False, 1e-5)])
def test_cached_steps_equal_the_full_forward(positions, cache_class, double, tolerance):
    model = tiny("unilm", position_embedding_type=positions, double=double, initializer_range=0.1)
    ids, types = tokens(2, 10), source_target(2, 6, 4)
    mask = torch.tensor([[1] * 10, [0] * 2 + [1] * 8])
    full = model(ids, attention_mask=mask, token_type_ids=types, use_cache=False).logits
    options = {"max_cache_len": 12} if cache_class is StaticCache else {}
    cache = cache_class(config=model.config, **options)
    steps = []
    for start, end in ((0, 6), (6, 7), (7, 9), (9, 10)):
        outputs = model(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            token_type_ids=types[:, start:end],
            past_key_values=cache,
            use_cache=True,
        )
        steps.append(outputs.logits)
    difference = (torch.cat(steps, 1) - full).abs()[mask.bool()]
    assert difference.max() < tolerance
    assert int(cache.get_seq_length()) == 10


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("left", [True, False])
def test_batched_greedy_equals_the_uncached_forward_of_each_row(positions, left):
    model = tiny("unilm", position_embedding_type=positions)
    batch, mask, rows = prompts(left)
    expected = [greedy_by_hand(model, row, 8) for row in rows]
    options = {"max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    ways = {
        "dynamic cache": {},
        "no cache": {"use_cache": False},
        "static cache": {"cache_implementation": "static", "disable_compile": True},
        "token types given": {"token_type_ids": torch.zeros_like(batch)},
        "prompt lookup": {"prompt_lookup_num_tokens": 3, "eos_token_id": NEVER},  # before 5.13 it needs one,
    }
    for name, way in ways.items():
        if name == "prompt lookup":  # one row at a time
            out = [model.generate(row[None], **options | way)[0, len(row) :][:8] for row in rows]  # and gives one more
        else:
            out = model.generate(batch, attention_mask=mask, **options, **way)[:, 9:]
        assert [row.tolist() for row in out] == expected, name
    out = model.generate(batch, **options)[:, 9:]  # padding found by its id
    assert [row.tolist() for row in out] == expected


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_prompt_of_padding_harms_no_other(implementation):
    model = tiny("unilm", attn_implementation=implementation)
    batch, mask, rows = prompts(left=True)
    batch, mask = torch.cat([batch, torch.zeros_like(batch[:1])]), torch.cat([mask, torch.zeros_like(mask[:1])])
    out = model.generate(batch, attention_mask=mask, max_new_tokens=5, eos_token_id=None, pad_token_id=0)[:, 9:]
    assert [row.tolist() for row in out[:3]] == [greedy_by_hand(model, row, 5) for row in rows]


def test_beams_and_sampling_do_not_depend_on_cache_or_padding():
    model = tiny("unilm")
    batch, mask, rows = prompts(left=True)
    options = {"max_new_tokens": 6, "pad_token_id": 0, "num_beams": 3, "num_return_sequences": 2}
    cached = model.generate(batch, attention_mask=mask, **options)[:, 9:].reshape(3, 2, -1)
    assert torch.equal(
        cached, model.generate(batch, attention_mask=mask, use_cache=False, **options)[:, 9:].view_as(cached)
    )
    for number, row in enumerate(rows):
        alone = model.generate(row[None], **options)[:, len(row) :]
        assert torch.equal(alone, cached[number, :, : alone.shape[1]])
    options = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": True, "top_k": 5, "eos_token_id": None}
    sampled = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        sampled.append(model.generate(batch, attention_mask=mask, use_cache=use_cache, **options))
    assert torch.equal(*sampled)
    greedy = model.generate(batch, attention_mask=mask, **{**options, "do_sample": False})
    torch.manual_seed(3)
    assert torch.equal(greedy, model.generate(batch, attention_mask=mask, **{**options, "top_k": 1}))


def test_generation_stops_at_sep_and_keeps_new_tokens_target():
    model = tiny("unilm")
    with torch.no_grad():  # make [SEP] win from the start
        model.cls.predictions.bias[2] += 1000
    out = model.generate(tokens(2, 6), max_new_tokens=5)
    assert out.shape == (2, 7) and (out[:, -1] == 2).all()


def test_continuing_from_a_filled_cache():
    model = tiny("unilm")
    prompt = tokens(1, 6)
    options = {"eos_token_id": None, "return_dict_in_generate": True}
    whole = model.generate(prompt, max_new_tokens=8, **options).sequences
    first = model.generate(prompt, max_new_tokens=3, **options)
    second = model.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=5, **options)
    assert torch.equal(second.sequences, whole)
    for types in (torch.zeros_like(first.sequences), torch.ones_like(first.sequences)):
        cache = model(prompt, token_type_ids=torch.zeros_like(prompt), use_cache=True).past_key_values
        again = model.generate(
            first.sequences, past_key_values=cache, token_type_ids=types, max_new_tokens=5, eos_token_id=None
        )
        assert torch.equal(again, whole)


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
@pytest.mark.parametrize("num_return_sequences", [1, 2])
def test_a_mask_on_top_of_a_cache_follows_the_moved_prompt(family, num_return_sequences):
    """The caller extends his own mask, the prompt in the cache stands left-padded."""
    model = tiny(family)
    batch, mask, _ = prompts(left=False)
    options = {"eos_token_id": None, "return_dict_in_generate": True, "num_return_sequences": num_return_sequences}
    options |= {"do_sample": num_return_sequences > 1, "top_k": 1}
    whole = model.generate(batch, attention_mask=mask, max_new_tokens=8, **options).sequences
    first = model.generate(batch, attention_mask=mask, max_new_tokens=3, **options)
    kept = torch.nn.functional.pad(mask.repeat_interleave(num_return_sequences, dim=0), (0, 3), value=1)
    for continued in (kept, (first.sequences != 0).long()):  # the caller's mask, and that of the returned prompt
        second = model.generate(
            first.sequences, attention_mask=continued, past_key_values=copy.deepcopy(first.past_key_values),
            **{**options, "num_return_sequences": 1, "max_new_tokens": 5},
        )  # fmt: skip
        assert torch.equal(second.sequences, whole)


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_assisted_is_greedy_whatever_ends_the_prompt(family, positions):
    """Prompts that hold and end in ids which are also padding or the end; nothing of the prompt is reordered."""
    models = [tiny(family, position_embedding_type=positions, seed=seed, double=False) for seed in (0, 3)]
    for seed in range(8):
        prompt = tokens(1, 6, seed=seed)
        prompt[0, 2], prompt[0, -1] = seed // 2, seed % 4  # the special ids are 0 … 3
        mask, pad = (torch.ones_like(prompt), 0) if seed % 3 == 0 else (None, (None, 2)[seed % 2])
        options = {"max_new_tokens": 6, "attention_mask": mask, "pad_token_id": pad, "eos_token_id": 2}
        expected = models[0].generate(prompt, **options)
        assert torch.equal(expected[:, :6], prompt)
        assert torch.equal(models[0].generate(prompt, assistant_model=models[seed % 2], **options), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_assisted_is_greedy_over_300_seeds(family, positions):
    for seed in range(300):
        models = [tiny(family, position_embedding_type=positions, seed=n, double=False) for n in (seed, seed + 1)]
        prompt = tokens(1, 4 + seed % 5, seed=seed)
        prompt[0, seed % 3], prompt[0, -1] = seed % 4, seed // 4 % 4
        mask = torch.ones_like(prompt) if seed % 2 else None
        options = {
            "max_new_tokens": 10,
            "attention_mask": mask,
            "pad_token_id": (0, 2)[seed % 3 > 0],
            "eos_token_id": 2,
        }
        expected = models[0].generate(prompt, **options)
        assert torch.equal(models[0].generate(prompt, assistant_model=models[1], **options), expected), seed


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
def test_padding_is_guessed_where_transformers_guesses(family):
    """As the stock model of the same prompts: where padding also ends texts, a prompt may end in it."""
    model, prompt = tiny(family), tokens(2, 6)
    prompt[0, -2:] = torch.tensor([5, 2])
    options = {"max_new_tokens": 4, "do_sample": False}
    for ends in (2, [7, 2], torch.tensor([2])):
        output = model.generate(prompt, pad_token_id=2, eos_token_id=ends, **options)
        assert torch.equal(output[:, :6], prompt)
        whole = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), pad_token_id=2, eos_token_id=ends, **options
        )
        assert torch.equal(output, whole)
    moved = model.generate(prompt, pad_token_id=2, eos_token_id=7, **options)
    assert moved[0, :6].tolist() == [2, *prompt[0, :5].tolist()]


def test_an_assistant_of_another_class_gets_no_keyword_of_ours():
    """Stock models refuse arguments that they do not know."""
    config = {key: value for key, value in SIZES.items() if key != "max_relative_position"}
    stock = BertLMHeadModel(BertConfig(**config, is_decoder=True)).eval()
    for model in (tiny("unilm"), tiny("dialogpt"), tiny("dialogpt", layout="blog")):
        prompt = tokens(1, 6)
        options = {"max_new_tokens": 8, "eos_token_id": None}
        expected = model.generate(prompt, **options)
        assert torch.equal(model.generate(prompt, assistant_model=stock, **options), expected)


def test_assistant_model_changes_nothing():
    model, prompt = tiny("unilm"), tokens(1, 6)
    options = {"max_new_tokens": 8, "eos_token_id": None}
    expected = model.generate(prompt, **options)
    for seed in (0, 3):  # the model itself, and one that guesses badly
        assert torch.equal(model.generate(prompt, assistant_model=tiny("unilm", seed=seed), **options), expected)
    assert model.generate(max_new_tokens=3, eos_token_id=None).shape == (1, 4)  # from [CLS] alone


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
@pytest.mark.parametrize("left", [True, False])
def test_generating_from_embeddings(family, left):
    model = tiny(family)
    batch, mask, _ = prompts(left)
    options = {"attention_mask": mask, "max_new_tokens": 5, "eos_token_id": None}
    from_ids = model.generate(batch, **options)
    embeddings = model.get_input_embeddings()(batch)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), from_ids[:, 9:])
    assert torch.equal(model.generate(batch, inputs_embeds=embeddings, **options), from_ids)
    with pytest.raises(ValueError, match="do not fit"):
        model.generate(inputs_embeds=embeddings, **{**options, "max_new_tokens": 60})


def test_labels_on_the_source_do_not_count():
    model = tiny("unilm", double=False)
    ids, types = tokens(2, 8), source_target(2, 5, 3)
    on_target = ids.masked_fill(types == 0, -100)
    assert torch.equal(
        model(ids, token_type_ids=types, labels=ids).loss, model(ids, token_type_ids=types, labels=on_target).loss
    )


def test_a_count_of_labels_knows_those_of_the_source(tmp_path):
    """transformers' Trainer counts labels before UniLM takes out those of the source."""
    model = tiny("unilm", double=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ids, types = tokens(4, 20), source_target(4, 15, 5)
    expected = model(ids, token_type_ids=types, labels=ids).loss.item()

    def trained_loss(batch_size, labels):
        rows = [
            dict(zip(("input_ids", "token_type_ids", "labels"), row, strict=True))
            for row in zip(ids, types, labels, strict=True)
        ]
        arguments = TrainingArguments(
            str(tmp_path), report_to=[], per_device_train_batch_size=batch_size, max_steps=1, learning_rate=0.0,
            gradient_accumulation_steps=4 // batch_size, logging_steps=1, save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-4)
        return trainer.state.log_history[0]["loss"]

    on_target = ids.masked_fill(types == 0, -100)
    assert trained_loss(4, ids) == pytest.approx(expected, abs=1e-3)
    assert trained_loss(2, on_target) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match="-100"):
        trained_loss(2, ids)


def test_refuses_what_would_be_silently_wrong():
    model = tiny("unilm", double=False)
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        model.generate(tokens(1, 6), prefill_chunk_size=2, max_new_tokens=1)
    with pytest.raises(ValueError, match="do not fit in 64"):
        model.generate(tokens(1, 60), max_new_tokens=6)
    assert model.generate(tokens(1, 60), max_new_tokens=5, eos_token_id=None).shape == (1, 65)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="the prompt once"):
        model.generate(tokens(1, 6), input_ids=tokens(1, 6))
    positional = model.generate(tokens(1, 6), GenerationConfig(max_new_tokens=3))
    assert torch.equal(positional, model.generate(input_ids=tokens(1, 6), max_new_tokens=3))
    with pytest.raises(ValueError, match="do not fit in 64"):
        model.generate(tokens(1, 60), GenerationConfig(max_new_tokens=6))
    tuned = get_peft_model(
        model,
        PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=3, token_dim=32, num_attention_heads=4
        ),
    )
    tuned_prompt = get_peft_model(
        tiny("unilm", double=False), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(ValueError, match="prompt tuning"), pytest.warns(UserWarning, match="Token type ids"):
        tuned_prompt(tokens(1, 6), token_type_ids=source_target(1, 3, 3), labels=tokens(1, 6))
    with (
        pytest.raises(ValueError, match="prefix tuning"),
        pytest.warns(UserWarning, match="Token type ids are not supported"),
    ):
        tuned(tokens(1, 6), token_type_ids=source_target(1, 3, 3))


def greedy(model, source: list[int], steps: int, ngram: int = 0, penalty: float = 1.0, shortest: int = 0) -> list[int]:
    """Token by token, from the whole sequence; the rules look at the target."""
    target: list[int] = []
    for step in range(steps):
        ids, types = [*source, *target], [0] * len(source) + [1] * len(target)
        scores = model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0, -1].detach().clone()
        for token in set(target):
            scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        grams = {tuple(target[n : n + ngram]) for n in range(len(target) - ngram + 1)} if ngram else set()
        for token in range(len(scores)):
            if tuple([*target, token][-ngram:]) in grams or (token == 2 and step < shortest):
                scores[token] = -torch.inf
        target.append(int(scores.argmax()))
        if target[-1] == 2:
            break
    return target


def test_rules_count_the_target_alone():
    model = tiny("unilm", seed=3)
    differs = 0
    for seed in range(6):
        source = [1, *tokens(1, 7, seed=seed)[0].tolist(), 2]
        free = greedy(model, source, 10)
        source = [1, *free[:5], 2]  # what the model likes to say stands in the source
        for options, rule in (
            ({"no_repeat_ngram_size": 1}, {"ngram": 1}),
            ({"no_repeat_ngram_size": 2}, {"ngram": 2}),
            ({"repetition_penalty": 1.5}, {"penalty": 1.5}),
            ({"min_length": 6}, {"shortest": 6}),
        ):
            expected = greedy(model, source, 10, **rule)
            differs += expected != greedy(model, source, 10)
            ids = torch.tensor([source])
            output = model.generate(ids, max_new_tokens=10, do_sample=False, **options)
            assert output[0, len(source) :].tolist() == expected
            config = GenerationConfig(max_new_tokens=10, do_sample=False, eos_token_id=2, pad_token_id=0, **options)
            assert torch.equal(model.generate(ids, generation_config=config), output)
            embedded = model.generate(
                inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=10, do_sample=False, **options
            )
            assert embedded[0].tolist() == expected
    assert differs > 8


def test_generate_texts_refuses_what_is_not_one_text_per_source():
    model, tokenizer = tiny("unilm", double=False), tiny_tokenizer()
    for options, reason in (
        ({"num_return_sequences": 2, "num_beams": 2}, "repeat the sources"),
        ({"return_dict_in_generate": True}, "call generate"),
        ({"max_length": 20}, "give generate_texts max_new_tokens"),
    ):
        with pytest.raises(ValueError, match=reason):
            model.generate_texts(["今天"], tokenizer=tokenizer, **options)


def test_pipeline_and_streamer_speak_chinese(tmp_path, capsys):
    model, tokenizer = tiny("unilm", double=False), tiny_tokenizer()
    model.generation_config.update(max_new_tokens=6, do_sample=False, pad_token_id=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator = pipeline("text-generation", model=str(tmp_path))
    assert isinstance(generator.model, UniLMForCausalLM)
    text = "今天天气很好"
    ids = tokenizer(text, return_tensors="pt").input_ids
    expected = tokenizer.decode(model.generate(ids)[0, ids.shape[1] :], skip_special_tokens=True)
    own = {"max_new_tokens": 6, "do_sample": False}  # older pipelines have other defaults
    assert generator(text, return_full_text=False, **own)[0]["generated_text"] == expected
    batched = generator([text, "我很好"], batch_size=2, return_full_text=False, **own)
    assert batched[0][0]["generated_text"] == expected
    model.generate(ids, streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out.strip() == expected


@pytest.mark.slow
def test_compiled_static_cache_generates_the_same():
    model = tiny("unilm", double=False)
    batch, mask, _ = prompts(left=True)
    options = {"attention_mask": mask, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    compile_config = CompileConfig(fullgraph=True, dynamic=False, mode="default")
    compile_config._compile_all_devices = True  # transformers compiles on accelerators only, but for its own tests
    expected = model.generate(batch, **options)
    out = model.generate(batch, cache_implementation="static", compile_config=compile_config, **options)
    assert torch.equal(out, expected)
    assert model._compiled_call is not None
