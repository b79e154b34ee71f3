# mypy: ignore-errors
# Runs in another environment, against libraries of other versions than ours.
"""What the runner scripts share. They run under another environment's interpreter: standard library only, Python 3.9.

A runner is started as ``python run_<tool>.py spec.json``, or with ``--check result.json``
to say only whether it could work. It writes progress as JSON lines, the adapter to a
directory, and at the end one result file: what was done, or the error.
"""

import json
import math
import os
import select
import signal
import sys
import threading
import traceback
from importlib import import_module
from importlib import metadata as packages
from importlib import util as imports

PROTOCOL = 1


class Unfit(Exception):
    """This environment or this tool cannot do what the spec asks; the message says why, and what would help."""


class Tool:
    """A tool as its runner describes it: name, the modules it needs, and whether it needs a GPU."""

    def __init__(self, name, modules, needs_gpu, train):
        self.name, self.modules, self.needs_gpu, self.train = name, modules, needs_gpu, train

    def check(self):
        """Versions of everything that matters here, or Unfit."""
        lacking = [module for module in self.modules if imports.find_spec(module) is None]
        if lacking:
            raise Unfit(
                f"{sys.executable} has no module {', '.join(lacking)}; install {self.name} into that environment, or "
                "name another interpreter"
            )
        torch = import_module("torch")
        if self.needs_gpu and not torch.cuda.is_available():
            raise Unfit(
                f"{self.name} needs a CUDA device, and PyTorch in its environment ({torch.__version__}) sees none"
            )
        return {"python": sys.version.split()[0], **versions([*self.modules, "torch"])}


def versions(modules):
    """Version of the distribution behind each module."""
    found = {}
    for module in modules:
        try:
            found[module] = packages.version(module.replace("_", "-"))
        except packages.PackageNotFoundError:
            found[module] = "unknown"
    return found


def main(tool):
    """Run `tool` as the command line says; returns the exit code."""
    follow_parent()
    checks = sys.argv[1] == "--check"
    spec = {"result_file": sys.argv[2]} if checks else read_json(sys.argv[1])
    try:
        if not checks and spec["protocol"] != PROTOCOL:
            raise Unfit(f"the spec is of protocol {spec['protocol']}, this runner of {PROTOCOL}")
        result = {"versions": tool.check()}
        if not checks:
            result["trained"] = tool.train(spec)
    except Unfit as error:
        result = {"error": {"kind": "unfit", "message": str(error)}}
    except Exception as error:  # whatever the tool raises, whoever started us must learn of it
        traceback.print_exc()
        result = {"error": {"kind": "failed", "message": f"{type(error).__name__}: {error}"}}
    write_json(spec["result_file"], result)
    return 1 if "error" in result else 0


def recorder(spec):
    """A Trainer callback that writes progress, and keeps what the result says about the run."""
    transformers = import_module("transformers")

    class Recorder(transformers.TrainerCallback):
        def __init__(self):
            self.trained, self._latest = {}, {}
            self._file = open(spec["progress_file"], "a", encoding="utf-8", buffering=1)  # noqa: SIM115

        def on_train_begin(self, args, state, control, **kwargs):
            model = kwargs.get("model")
            if model is not None:
                parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
                self.trained["trainable_parameters"] = sum(count for count, learns in parameters if learns)
                self.trained["total_parameters"] = sum(count for count, _ in parameters)
                self.trained["device"] = str(model.device.type)
                self.trained["dtype"] = "nf4" if getattr(model, "is_loaded_in_4bit", False) else dtype_name(model)
            self._say(state, "training")

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name in ("loss", "learning_rate", "grad_norm", "epoch"):
                value = (logs or {}).get(name)
                if isinstance(value, (int, float)):
                    self._latest[name] = value
            loss = (logs or {}).get("loss")
            if isinstance(loss, (int, float)) and not math.isfinite(loss):
                raise RuntimeError(f"training diverged: loss is {loss} at step {state.global_step}")
            self._say(state, "training")

        def on_train_end(self, args, state, control, **kwargs):
            self.trained.update(
                steps=state.global_step, max_steps=state.max_steps, epochs=state.epoch, log=state.log_history
            )

        def _say(self, state, message):
            moment = {"step": state.global_step, "total": state.max_steps, "message": message, "metrics": self._latest}
            self._file.write(json.dumps(moment) + "\n")

    return Recorder()


def dtype_name(model):
    """The dtype of most of a model's weights."""
    counts = {}
    for weight in model.parameters():
        name = str(weight.dtype).replace("torch.", "")
        counts[name] = counts.get(name, 0) + weight.numel()
    return max(counts, key=counts.get)


def rows_of(spec, attention_mask=False):
    """The tokenized rows as a `datasets.Dataset` with input_ids and labels."""
    parquet, arrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    table = parquet.read_table(spec["rows"], columns=["input_ids", "labels"]).combine_chunks()
    if attention_mask:
        ones = [[1] * len(row) for row in table["input_ids"].to_pylist()]
        table = table.append_column("attention_mask", arrow.array(ones, arrow.list_(arrow.int64())))
    datasets = import_module("datasets")
    return datasets.Dataset(import_module("datasets.table").InMemoryTable(table))


def trainer_arguments(spec, config_class, **more):
    """Arguments for a class like TrainingArguments; those it does not have are an error, not left out."""
    training = spec["training"]
    fields = config_class.__dataclass_fields__
    values = {
        "output_dir": spec["work_dir"],
        "per_device_train_batch_size": training["per_device_train_batch_size"],
        "gradient_accumulation_steps": training["gradient_accumulation_steps"],
        "num_train_epochs": training["num_train_epochs"],
        "max_steps": training["max_steps"],
        "learning_rate": training["learning_rate"],
        "lr_scheduler_type": training["lr_scheduler_type"],
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["max_grad_norm"],
        "optim": training["optim"],
        "seed": training["seed"],
        "logging_steps": training["logging_steps"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "neftune_noise_alpha": training["neftune_noise_alpha"],
        **warmup(training["warmup_ratio"], fields),
        **more,
    }
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise Unfit(f"{config_class.__name__} of this version has no {', '.join(unknown)}; install a newer one")
    return values


def warmup(ratio, fields):
    """`warmup_ratio`, or what took its place in transformers 5: `warmup_steps` below 1 is a share."""
    if "warmup_ratio" in fields and str(fields["warmup_ratio"].type).find("None") < 0:
        return {"warmup_ratio": ratio}
    return {
        "warmup_steps": min(ratio, math.nextafter(1.0, 0.0)) if hasattr(math, "nextafter") else min(ratio, 0.999999)
    }


def precision(spec):
    """(name of the dtype to load weights in, whether to train with bfloat16 autocast)."""
    torch = import_module("torch")
    gpu = torch.cuda.is_available()
    capable = gpu and torch.cuda.is_bf16_supported()
    asked = spec["model"]["dtype"]
    name = asked if asked != "auto" else "bfloat16" if capable else "float16" if gpu else "float32"
    return name, capable and name != "float32"


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path, value):
    """Write a file all at once: what is there is whole."""
    aside = f"{path}.part"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def follow_parent():
    """End this process group as soon as whoever started us is gone."""
    path = os.environ.get("FORGE_LIFELINE")
    if path is None:
        return

    def wait():
        try:
            line = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # fails at once where nobody reads
            poll = select.poll()
            poll.register(line, 0)
            poll.poll()
        except OSError:
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
