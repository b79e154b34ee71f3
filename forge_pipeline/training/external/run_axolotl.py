# mypy: ignore-errors
# Runs in another environment, against libraries of other versions than ours.
"""Fine-tunes by Axolotl on CUDA. Written against Axolotl 0.19. See `protocol` for how it is called."""

import os
import sys

import protocol


def settings(spec):
    """The spec in the words of Axolotl's YAML."""
    lora, model, training = spec["lora"], spec["model"], spec["training"]
    dtype, autocast = protocol.precision(spec)
    rows = os.path.join(spec["work_dir"], "rows.parquet")
    protocol.rows_of(spec, attention_mask=True).to_parquet(rows)
    values = {
        "base_model": spec["base_model"],
        "tokenizer_config": spec["tokenizer"],
        "trust_remote_code": model["trust_remote_code"],
        "load_in_4bit": model["load_in_4bit"],
        "adapter": "qlora" if model["load_in_4bit"] else "lora",
        "lora_r": lora["r"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "peft_use_dora": lora["method"] == "dora",
        "peft_use_rslora": lora["method"] == "rslora",
        # Rows that have input_ids, attention_mask and labels are taken as they are; they need no `type`.
        "datasets": [{"path": rows, "ds_type": "parquet", "split": "train"}],
        "dataset_prepared_path": os.path.join(spec["work_dir"], "prepared"),
        "val_set_size": 0.0,
        "shuffle_merged_datasets": False,
        "sequence_len": model["max_length"],
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "output_dir": spec["output_dir"],
        "micro_batch_size": training["per_device_train_batch_size"],
        "gradient_accumulation_steps": training["gradient_accumulation_steps"],
        "num_epochs": training["num_train_epochs"],
        "optimizer": training["optim"],
        "lr_scheduler": training["lr_scheduler_type"],
        "learning_rate": training["learning_rate"],
        "warmup_ratio": training["warmup_ratio"],
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["max_grad_norm"],
        "seed": training["seed"],
        "logging_steps": training["logging_steps"],
        "gradient_checkpointing": training["gradient_checkpointing"],
        "save_strategy": "no",
        "bf16": autocast,
        "fp16": not autocast and dtype == "float16",
        "plugins": ["axolotl_plugin.Progress"],
    }
    if spec["revision"]:
        values["revision_of_model"] = spec["revision"]
    if lora["target_modules"] == ["all-linear"]:
        values["lora_target_linear"] = True
    else:
        values["lora_target_modules"] = lora["target_modules"]
    if lora["modules_to_save"]:
        values["lora_modules_to_save"] = lora["modules_to_save"]
    if training["max_steps"] > 0:
        values["max_steps"] = training["max_steps"]
    if training["neftune_noise_alpha"] is not None:
        values["neftune_noise_alpha"] = training["neftune_noise_alpha"]
    return values


def train(spec):
    import axolotl_plugin
    import yaml
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import do_train

    axolotl_plugin.RECORDER = protocol.recorder(spec)
    path = os.path.join(spec["work_dir"], "axolotl.yaml")
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(settings(spec), file)
    do_train(load_cfg(path), TrainerCliArgs())
    return {"trainer_class": "axolotl.train", **axolotl_plugin.RECORDER.trained}


if __name__ == "__main__":
    sys.exit(protocol.main(protocol.Tool("Axolotl", ["axolotl", "trl", "peft", "transformers"], True, train)))
