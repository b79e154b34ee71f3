"""Say whether a recipe fits this machine or a given memory, before anything is loaded. Exit code 3 if it does not."""

import argparse

from forge_pipeline.cli.exit_codes import GATE_FAILED, SUCCESS
from forge_pipeline.cli.output import add_json_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="the recipe, a YAML file")
    parser.add_argument(
        "--memory", metavar="AMOUNT", help="the budget, for example 24GB or 16GiB; default: what is free"
    )
    parser.add_argument(
        "--device", choices=["cuda", "mps", "cpu"], help="what the budget is on; default: this machine's"
    )
    parser.add_argument("--serving", action="store_true", help="also say what serving takes, for each quantization")
    parser.add_argument(
        "--context", type=int, action="append", metavar="TOKENS", help="context length to serve; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="the formula instead of the simulation")
    parser.add_argument("--no-advice", action="store_true", help="do not search for changes that fit")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.config import load_config
    from forge_pipeline.fit_check import fit_check
    from forge_pipeline.models.quiet import quiet_libraries

    config = load_config(args.recipe)
    with quiet_libraries():
        report = fit_check(
            config,
            memory=args.memory,
            device=args.device,
            serving=tuple(args.context) if args.context else args.serving,
            quick=args.quick,
            advise=not args.no_advice,
        )
    if args.json:
        import json

        from forge_pipeline.integrity import report_to_json

        print(json.dumps({"verdict": report.verdict, **report_to_json(report)}, indent=2))
    else:
        print("\n".join(report.lines()))
    return SUCCESS if report.fits else GATE_FAILED
