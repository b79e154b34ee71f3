"""Ollama's Modelfile: what is written, and what its format cannot hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from forge_pipeline.errors import ExportError
from forge_pipeline.export import read_gguf
from forge_pipeline.export.modelfile import gguf_template, render_modelfile
from forge_pipeline.export.stage import _modelfile


@pytest.mark.parametrize("path", ["/a\nSYSTEM x", "/a ", '"/a"', "/a\u200b"])
def test_a_path_that_the_format_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(ExportError, match="cannot be written in a Modelfile"):
        render_modelfile(path, context=8)


@pytest.mark.parametrize("stop", ['<"end">', "<end>\n"])
def test_a_stop_that_the_format_cannot_hold_is_refused(stop: str) -> None:
    with pytest.raises(ExportError, match="the stop token"):
        render_modelfile("/a", context=8, stops=[stop])


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ messages[-1]['content'] }}", "template"), ("{% for m in messages %}", "not plain Jinja")],
    ids=["it drops turns", "it does not compile"],
)
def test_the_export_leaves_a_template_that_cannot_be_translated_to_ollama_and_says_why(
    template: str, words: str, llama_gguf: Path
) -> None:
    header = read_gguf(llama_gguf)
    changed = replace(header, metadata={**header.metadata, "tokenizer.chat_template": template})
    with pytest.raises(ExportError, match=words):
        gguf_template(changed.metadata)
    comment, source, context, end = _modelfile("tiny.f16.gguf", changed).split("\n")
    assert comment.startswith("# no TEMPLATE: ")
    assert (source, context, end) == ("FROM ./tiny.f16.gguf", "PARAMETER num_ctx 256", "")
