"""Ollama's ``Modelfile``: where the weights lie, the chat template in Go's template language, what ends an answer.

Ollama picks a template for a GGUF file by likeness to those of well-known models, and none where nothing is like
it. So the template stands in the Modelfile, translated, where the translation provably gives the same text (`turns`).

Source: docs/modelfile.mdx and parser/parser.go of ollama/ollama (fb307608). That parser drops characters that Go
calls unprintable, wherever they stand; the template writes them as escapes (`turns`), and stops that hold them are
refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from forge_pipeline.errors import ExportError
from forge_pipeline.export.turns import turn_format


def render_modelfile(
    source: str, *, context: int, template: str | None = None, stops: Sequence[str] = (), adapter: str | None = None
) -> str:
    """The file's text.

    Args:
        source, adapter: Paths, absolute or from where the Modelfile lies.
        context: Longest conversation, in tokens.
        template: In Go's template language; None leaves the choice to Ollama.
        stops: Texts that end an answer.

    Raises:
        ExportError: The format has no way to write a path or a stop.
    """
    lines = [f"FROM {_line(source)}"]
    if adapter:
        lines.append(f"ADAPTER {_line(adapter)}")
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f"PARAMETER stop {_quoted(each)}" for each in stops]
    return "\n".join([*lines, f"PARAMETER num_ctx {context}"]) + "\n"


def gguf_template(metadata: Mapping[str, Any]) -> str | None:
    """The chat template of a GGUF file, translated; None if it has none.

    Raises:
        ExportError: It does more than put text around contents.
    """
    import jinja2.sandbox

    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        return None
    special = _special_tokens(metadata)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        compiled = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ExportError(f"the chat template of the GGUF file is not plain Jinja: {error}") from error

    class Templated:
        chat_template = source

        def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> str:
            return compiled.render(
                messages=conversation,
                add_generation_prompt=add_generation_prompt,
                bos_token=special.get("bos", ""),
                eos_token=special.get("eos", ""),
            )

    begins = special.get("bos", "") if metadata.get("tokenizer.ggml.add_bos_token") else ""
    return turn_format(Templated()).go_template(leave_out=begins)


def gguf_stops(metadata: Mapping[str, Any]) -> list[str]:
    """The text of the token that ends an answer; none where the file names none."""
    special = _special_tokens(metadata)
    return [special["eos"]] if "eos" in special else []


def gguf_context(metadata: Mapping[str, Any], name: str) -> int:
    """Longest text that the model of a GGUF file takes, in tokens.

    Raises:
        ExportError: The file, called `name`, does not say.
    """
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if not isinstance(context, int):
        raise ExportError(f"{name} names no context length")
    return context


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return {
        key: str(tokens[number])
        for key in ("bos", "eos")
        if isinstance(tokens, list) and isinstance(number := metadata.get(f"tokenizer.ggml.{key}_token_id"), int)
    }


def _line(path: str) -> str:
    if not path.isprintable() or path != path.strip() or path.startswith('"'):
        raise ExportError(
            f"{path!r} cannot be written in a Modelfile, which has no escapes: a path there holds printable characters "
            "and begins with no quote; give the model another place"
        )
    return path


def _quoted(text: str) -> str:
    if '"' in text or not text.isprintable():
        raise ExportError(f"the stop token {text!r} has a quote or an unprintable character, which Ollama cannot take")
    return f'"{text}"'
