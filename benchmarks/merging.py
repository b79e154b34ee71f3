"""Folding an adapter into its base model: ours tensor by tensor, beside PEFT's in memory, in one run.

Each side runs in a process of its own on the same random model and adapter; peak memory is the
largest resident set (VmHWM) above what the process had once its libraries were imported, CPU time is the
process's. The written weights are compared byte for byte.

    python -m benchmarks.merging [--hidden 1024] [--layers 12] [--vocab 32000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from forge_pipeline.integrity import Digest

_SIDE = """
import json, re, sys, time
from pathlib import Path
import torch, transformers, peft, accelerate
from transformers import LlamaForCausalLM
from peft import PeftModel
from forge_pipeline.config import ForgeConfig
from forge_pipeline.models import ModelDirectory, merge

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

side, base, adapter, out = sys.argv[1:]
Path("/proc/self/clear_refs").write_text("5")
before, cpu = peak(), time.process_time()
if side == "ours":
    config = ForgeConfig(
        name="bench", model={"name_or_path": base, "load_in_4bit": False}, lora={}, training={},
        data={"dataset_name_or_path": "(not read)"},
    )
    merge(config, ModelDirectory.open(adapter), Path(out))
else:
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(out, max_shard_size=5 * 10**9)
print(json.dumps({"cpu_s": time.process_time() - cpu, "peak": peak() - before}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=32_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        largest = _make(root, args.hidden, args.layers, args.vocab)
        sides = {side: _run(side, root) for side in ("ours", "peft")}
        ours, peft = (Digest.of_file(root / f"{side}.out" / "model.safetensors") for side in sides)
        size = (root / "ours.out" / "model.safetensors").stat().st_size
        result = {
            "written_bytes": size,
            "largest_tensor_float32_bytes": largest,
            "equal_bytes": ours == peft,
            **{side: found | {"peak_of_largest_tensor": found["peak"] / largest} for side, found in sides.items()},
            "at": time.strftime("%Y-%m-%d", time.gmtime()),
        }
    print(json.dumps(result, indent=2))


def _make(root: Path, hidden: int, layers: int, vocab: int) -> int:
    """A random llama in bfloat16 and an adapter on every linear layer; returns the largest tensor's float32 bytes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.models import ModelRecord, resolve_base_model
    from forge_pipeline.models.directory import write_record

    base, adapter = root / "base", root / "adapter"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(base)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0, "</s>": 1}, [])), eos_token="</s>"
    )
    tokenizer.save_pretrained(base)
    largest = 4 * max(int(weight.numel()) for weight in model.parameters())
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    tuned.save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    recipe = ForgeConfig(
        name="bench", model={"name_or_path": str(base)}, lora={}, training={}, data={"dataset_name_or_path": "(none)"}
    )
    nothing = Digest.of(b"")
    record = ModelRecord(
        kind="adapter",
        base_model=resolve_base_model(recipe).record,
        trainer_type="sft",
        config_digest=nothing,
        dataset_digest=nothing,
        tokenized_digest=nothing,
        chat_template_digest=None,
        seed=0,
    )
    write_record(adapter, record)
    return largest


def _run(side: str, root: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _SIDE, side, str(root / "base"), str(root / "adapter"), str(root / f"{side}.out")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
