"""Open exported folders with transformers, without jax, and save them again."""

import json
import sys
from pathlib import Path

for name in ("jax", "flax", "jaxgpt", "convert"):
    sys.modules[name] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer

work = json.loads(Path(sys.argv[1]).read_text())
found = {"models": {}, "tokenizers": {}}
for name, job in work["models"].items():
    model, info = AutoModelForCausalLM.from_pretrained(job["folder"], output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    ids = tokenizer(job["prompt"], return_tensors="pt")["input_ids"]
    logits = model(torch.arange(24)[None], attention_mask=torch.ones(1, 24)).logits
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=job["new"],
        eos_token_id=-1,
    )
    found["models"][name] = {
        "class": type(model).__name__,
        "problems": [
            *map(str, (*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]))
        ],
        "dtype": str(next(model.parameters()).dtype),
        "logits": logits.tolist(),
        "text": tokenizer.decode(out[0]),
        "ids": out[0].tolist(),
        "ends": [model.config.bos_token_id, model.config.eos_token_id, tokenizer.eos_token_id],
    }
    model.save_pretrained(job["again"], max_shard_size=job["shard"])
    tokenizer.save_pretrained(job["again"])
strings, ids = (json.loads(Path(work[key]).read_text()) for key in ("strings", "ids"))
for name, folder in work["tokenizers"].items():
    tokenizer = (GPT2Tokenizer if name == "two files" else AutoTokenizer).from_pretrained(folder)
    found["tokenizers"][name] = {
        "text": [
            tokenizer(x, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for x in strings
        ],
        "tokens": [tokenizer(x)["input_ids"] for x in strings],
        "decoded": [tokenizer.decode([i % len(tokenizer) for i in row]) for row in ids],
    }
    for bad in work["bad"]:
        try:
            found["tokenizers"][name][bad] = tokenizer(bad)["input_ids"]
        except Exception as error:
            found["tokenizers"][name][bad] = type(error).__name__
Path(sys.argv[2]).write_text(json.dumps(found))
