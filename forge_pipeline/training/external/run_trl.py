# mypy: ignore-errors
# Runs in another environment, against libraries of other versions than ours.
"""Fine-tunes by TRL and PEFT alone, whatever versions the environment has. See `protocol` for how it is called."""

import sys

import protocol


def train(spec):
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, set_seed
    from trl import SFTConfig, SFTTrainer

    lora, model = spec["lora"], spec["model"]
    dtype, autocast = protocol.precision(spec)
    set_seed(spec["training"]["seed"])
    tokenizer = AutoTokenizer.from_pretrained(spec["tokenizer"])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    loading = {"torch_dtype": getattr(torch, dtype), "trust_remote_code": model["trust_remote_code"]}
    if model["load_in_4bit"]:
        from transformers import BitsAndBytesConfig

        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=model["bnb_4bit_quant_type"],
            bnb_4bit_use_double_quant=model["bnb_4bit_use_double_quant"],
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    base = AutoModelForCausalLM.from_pretrained(spec["base_model"], revision=spec["revision"], **loading)
    recorder = protocol.recorder(spec)
    arguments = protocol.trainer_arguments(
        spec,
        SFTConfig,
        bf16=autocast,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=spec["training"]["gradient_checkpointing"],
        max_length=model["max_length"],
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(**arguments),
        train_dataset=protocol.rows_of(spec),
        processing_class=tokenizer,
        # Versions differ in what their own collator does with labels that are there already.
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        peft_config=LoraConfig(
            r=lora["r"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            bias=lora["bias"],
            target_modules="all-linear" if lora["target_modules"] == ["all-linear"] else lora["target_modules"],
            modules_to_save=lora["modules_to_save"],
            rank_pattern=lora["rank_pattern"],
            use_dora=lora["method"] == "dora",
            use_rslora=lora["method"] == "rslora",
            task_type="CAUSAL_LM",
        ),
        callbacks=[recorder],
    )
    trainer.train()
    trainer.model.save_pretrained(spec["output_dir"])
    return {"trainer_class": "trl.SFTTrainer", **recorder.trained}


if __name__ == "__main__":
    sys.exit(protocol.main(protocol.Tool("TRL", ["trl", "peft", "transformers", "datasets"], False, train)))
