"""A saved folder opens where suzoo does not exist, and computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from tests.models.tiny import tiny, tiny_tokenizer, tokens

# runs without suzoo: folders come as arguments, logits go to standard output as JSON
SCRIPT = """
import importlib.abc, json, sys
class NoSuzoo(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "suzoo":
            raise ImportError("suzoo is not installed here")
sys.meta_path.insert(0, NoSuzoo())
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline
folders, ids = json.loads(sys.argv[1]), torch.tensor(json.loads(sys.argv[2]))
out = {}
for name, folder in folders.items():
    auto = AutoModelForMaskedLM if name == "tta" else AutoModelForCausalLM
    trust = {} if name == "stock" else {"trust_remote_code": True}
    model = auto.from_pretrained(folder, **trust).eval()
    with torch.no_grad():
        out[name] = model(ids, token_type_ids=torch.zeros_like(ids)).logits.tolist()
    backbone = AutoModel.from_pretrained(folder, **trust)
    assert backbone(ids).last_hidden_state.shape == (2, 6, 32)
    out[name + " class"] = type(model).__module__.split(".")[0] + "." + type(model).__name__
model = AutoModelForMaskedLM.from_pretrained(folders["tta"], trust_remote_code=True)
out["score"] = model.score(["今天天气"]).tolist()
generator = pipeline("text-generation", model=folders["unilm"], trust_remote_code=True)
out["text"] = generator("今天天气", return_full_text=False, max_new_tokens=4, do_sample=False)[0]["generated_text"]
prompt = {"inputs": ids, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
for name in ("unilm", "blog", "stock"):
    model = AutoModelForCausalLM.from_pretrained(folders[name], trust_remote_code=name != "stock")
    assert torch.equal(model.generate(**prompt), model.generate(**prompt, use_cache=False)), name
model.save_pretrained(folders["tta"] + "-again")
AutoModelForMaskedLM.from_pretrained(folders["tta"] + "-again", trust_remote_code=True)
print(json.dumps(out))
"""


def test_folders_open_without_suzoo(tmp_path):
    tokenizer = tiny_tokenizer()
    models = {
        "unilm": tiny(
            "unilm",
            double=False,
            position_embedding_type="leaky_rerope",
            rope_window=3,
            attention_window=4,
            log_n="train",
        ),
        "blog": tiny("dialogpt", double=False, layout="blog", position_embedding_type="nezha"),
        "stock": tiny("dialogpt", double=False),
        "tta": tiny("tta", double=False, position_embedding_type="kerple_power"),
    }
    models["unilm"].generation_config.update(max_new_tokens=4, do_sample=False, pad_token_id=0)
    folders = {}
    for name, model in models.items():
        folders[name] = str(tmp_path / name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    assert not list((tmp_path / "stock").glob("*.py"))

    ids = tokens(2, 6)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "TRANSFORMERS_VERBOSITY": "error"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(folders), json.dumps(ids.tolist())],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads(done.stdout.splitlines()[-1])
    for name, model in models.items():
        with torch.no_grad():
            expected = model(ids, token_type_ids=torch.zeros_like(ids)).logits
        torch.testing.assert_close(torch.tensor(out[name]), expected, rtol=0, atol=1e-5)
        home = "transformers" if name == "stock" else "transformers_modules"
        assert out[f"{name} class"].split(".")[0] == home
    torch.testing.assert_close(torch.tensor(out["score"]), models["tta"].score(["今天天气"], tokenizer=tokenizer))
    prompt = tokenizer("今天天气", return_tensors="pt").input_ids
    reply = models["unilm"].generate(prompt)[0, prompt.shape[1] :]
    assert out["text"].strip() == tokenizer.decode(reply, skip_special_tokens=True).strip()
