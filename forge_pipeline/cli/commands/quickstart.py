"""Write a recipe to begin with: the quickstart line to a new file, or a template and its sample rows to a directory."""

import argparse
from importlib.resources import files
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        default="quickstart.yaml",
        metavar="TEMPLATE",
        help="a template (see --list), or the new file for the quickstart recipe (default: quickstart.yaml)",
    )
    parser.add_argument("directory", nargs="?", metavar="DIR", help="where the template goes (default: its own name)")
    parser.add_argument("--list", action="store_true", help="list the templates and stop")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.cli.templates import templates

    known = templates()
    if args.list:
        width = max(map(len, known))
        lines = [f"{each.name:<{width}}  {each.what}{_needs(each.needs)}" for each in known.values()]
        emit(
            args, {"templates": [vars(each) for each in known.values()]}, [*lines, "", "forge quickstart TEMPLATE DIR"]
        )
        return SUCCESS
    if args.what in known:
        return _write_template(args, args.what, Path(args.directory or args.what))
    if args.directory is not None:
        from forge_pipeline.errors import ConfigError

        raise ConfigError(f"{args.what!r} is no template; the templates are {', '.join(known)}")
    return _write_quickstart(args, Path(args.what))


def _needs(words: str) -> str:
    return f" (needs {words})" if words else ""


def _write_template(args: argparse.Namespace, name: str, directory: Path) -> int:
    from forge_pipeline.cli.templates import templates, write_template

    template = templates()[name]
    recipe, *samples = write_template(template, directory)
    lines = [f"{path} written" for path in (recipe, *samples)]
    lines += [f"needs {template.needs}"] if template.needs else []
    lines += [f"Next: cd {directory} && forge fit-check {recipe.name} && forge train {recipe.name}"]
    emit(args, {"template": name, "recipe": str(recipe), "data": [str(each) for each in samples]}, lines)
    return SUCCESS


def _write_quickstart(args: argparse.Namespace, path: Path) -> int:
    from forge_pipeline.integrity.atomic import write_file

    if path.exists():
        raise FileExistsError(f"{path} already exists and is not overwritten; give another name")
    write_file(path, (files("forge_pipeline.cli") / "quickstart.yaml").read_bytes())
    document = {"template": "quickstart", "recipe": str(path), "data": []}
    emit(args, document, [f"{path} written. Next: forge train {path}"])
    return SUCCESS
