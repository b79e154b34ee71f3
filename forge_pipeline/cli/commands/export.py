"""Write a fine-tuned model as GGUF files, compared with the model it came from. Exporting releases nothing."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import GATE_FAILED, SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.progress import showing_progress
from forge_pipeline.cli.surroundings import recipe_for

if TYPE_CHECKING:
    from forge_pipeline.export import GgufModel
    from forge_pipeline.gates import GateDecision

QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model directory that fine-tuning wrote")
    parser.add_argument("output", help="the new directory")
    parser.add_argument("--recipe", help="the recipe it was trained with; its export section and gates then hold")
    parser.add_argument("-Q", "--quantization", action="append", choices=QUANTIZATIONS, help="may be given repeatedly")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="the LoRA adapter alone, to load beside a GGUF file of its base; with -Q, those files as well",
    )
    parser.add_argument("--texts", metavar="FILE", help="held-out texts, one a line, to measure fidelity on")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.export import fidelity_gates, gguf
    from forge_pipeline.gates import Verdict, check_gates
    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.training import loss_gate

    model = ModelDirectory.open(args.model)
    config = recipe_for(model, args.recipe)
    if args.quantization or args.adapter:
        asked = {"quantizations": args.quantization or [], "adapter": args.adapter or config.export.adapter}
        config = config.model_copy(update={"export": config.export.model_copy(update=asked)})
    check_gates("export", loss_gate(config, model), subject=model.digest)
    texts = [line for line in Path(args.texts).read_text("utf-8").splitlines() if line.strip()] if args.texts else []
    with showing_progress(quiet=args.quiet) as report:
        exported = gguf(config, model, texts, Path(args.output), progress=report)
    decisions = fidelity_gates(config, exported)
    emit(args, exported.report, _lines(exported, decisions))
    return GATE_FAILED if any(each.verdict is Verdict.FAILED for each in decisions) else SUCCESS


def _lines(exported: "GgufModel", decisions: "tuple[GateDecision, ...]") -> list[str]:
    lines = [
        f"{exported.path / file.name}  {file.quantization}  {file.size:,} bytes  {file.digest}"
        for file in exported.report.files
    ]
    lines += [f"gate {each.gate}: {each.verdict.value.replace('_', ' ')}: {each.reason}" for each in decisions]
    return [*lines, "not released: a release goes through the gates and the approvals of its line"]
