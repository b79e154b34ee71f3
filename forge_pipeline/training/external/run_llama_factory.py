# mypy: ignore-errors
# Runs in another environment, against libraries of other versions than ours.
"""Fine-tunes by LLaMA-Factory. Written against LLaMA-Factory 0.9.5. See `protocol` for how it is called."""

import os
import sys

import protocol


def settings(spec):
    """The spec in the words of ``llamafactory-cli train``."""
    from llamafactory.hparams import TrainingArguments

    lora, model, training = spec["lora"], spec["model"], spec["training"]
    dtype, autocast = protocol.precision(spec)
    rows = os.path.join(spec["work_dir"], "rows")
    from datasets import DatasetDict

    # A set that lies at `tokenized_path` is taken as it is, so its templates never see our rows.
    DatasetDict({"train": protocol.rows_of(spec, attention_mask=True)}).save_to_disk(rows)
    values = protocol.trainer_arguments(
        spec,
        TrainingArguments,
        output_dir=spec["output_dir"],
        do_train=True,
        bf16=autocast,
        fp16=not autocast and dtype == "float16",
    )
    values |= {
        "stage": "sft",
        "model_name_or_path": spec["base_model"],
        "model_revision": spec["revision"] or "main",
        "trust_remote_code": model["trust_remote_code"],
        "template": "empty",
        "tokenized_path": rows,
        "dataset": "rows",  # asked for, and not read
        "cutoff_len": model["max_length"],
        "finetuning_type": "lora",
        "lora_rank": lora["r"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "lora_target": "all" if lora["target_modules"] == ["all-linear"] else ",".join(lora["target_modules"]),
        "additional_target": ",".join(lora["modules_to_save"]) if lora["modules_to_save"] else None,
        "use_dora": lora["method"] == "dora",
        "use_rslora": lora["method"] == "rslora",
        "disable_gradient_checkpointing": not training["gradient_checkpointing"],
        "plot_loss": False,
    }
    if model["load_in_4bit"]:
        values |= {
            "quantization_bit": 4,
            "quantization_type": model["bnb_4bit_quant_type"],
            "double_quantization": model["bnb_4bit_use_double_quant"],
        }
    return values


def train(spec):
    from llamafactory.train.tuner import run_exp

    recorder = protocol.recorder(spec)
    run_exp(settings(spec), callbacks=[recorder])
    return {"trainer_class": "llamafactory.train.sft", **recorder.trained}


if __name__ == "__main__":
    tool = protocol.Tool("LLaMA-Factory", ["llamafactory", "trl", "peft", "transformers"], False, train)
    sys.exit(protocol.main(tool))
