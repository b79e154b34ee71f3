# mypy: ignore-errors
# Runs in another environment, against libraries of other versions than ours.
"""Fine-tunes by Unsloth on one CUDA device. Written against Unsloth 2026.10. See `protocol` for how it is called."""

import sys

import protocol


def train(spec):
    # First of all: it patches transformers, PEFT and TRL as they are imported.
    import unsloth  # noqa: I001, F401
    import torch
    from transformers import DataCollatorForSeq2Seq
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel

    lora, model, training = spec["lora"], spec["model"], spec["training"]
    dtype, autocast = protocol.precision(spec)
    base, tokenizer = FastLanguageModel.from_pretrained(
        model_name=spec["base_model"],
        revision=spec["revision"],
        max_seq_length=model["max_length"],
        dtype=getattr(torch, dtype),
        load_in_4bit=model["load_in_4bit"],
        trust_remote_code=model["trust_remote_code"],
        random_state=training["seed"],
        use_exact_model_name=True,  # and not a copy of it under another name
    )
    targets = lora["target_modules"]
    adapted = FastLanguageModel.get_peft_model(
        base,
        r=lora["r"],
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        bias=lora["bias"],
        modules_to_save=lora["modules_to_save"],
        use_rslora=lora["method"] == "rslora",
        use_gradient_checkpointing="unsloth" if training["gradient_checkpointing"] else False,
        random_state=training["seed"],
    )
    recorder = protocol.recorder(spec)
    arguments = protocol.trainer_arguments(
        spec,
        SFTConfig,
        bf16=autocast,
        fp16=not autocast and dtype == "float16",
        max_length=model["max_length"],
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=adapted,
        args=SFTConfig(**arguments),
        train_dataset=protocol.rows_of(spec),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        callbacks=[recorder],
    )
    trainer.train()
    trainer.model.save_pretrained(spec["output_dir"])
    return {"trainer_class": "unsloth.FastLanguageModel with trl.SFTTrainer", **recorder.trained}


if __name__ == "__main__":
    sys.exit(protocol.main(protocol.Tool("Unsloth", ["unsloth", "trl", "peft", "transformers"], True, train)))
