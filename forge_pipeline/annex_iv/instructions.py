"""Instructions for use (Art. 13(3)): what a deployer must be told, with gaps left visible.

A skeleton: items are answered from declarations and measurements; what nobody has
stated stands there as **Missing**, never as boilerplate.
"""

from dataclasses import dataclass

from forge_pipeline.annex_iv.declarations import all_stated, compliance_of, declaration, risk_of, stated, stated_name
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.markdown import bullets, escape, status_line
from forge_pipeline.annex_iv.measurements import measurements, memory_facts, size_lines


@dataclass(frozen=True)
class InstructionItem:
    """One thing Art. 13(3) asks for.

    Attributes:
        article: ``13(3)(a)``, ...
        content: Markdown; None while nobody has stated it.
        measured: Markdown; what the pipeline measured to the same question, which answers it in part only.
        fill_in: The recipe key that would answer it.
    """

    article: str
    asks: str
    content: str | None
    fill_in: str
    measured: str | None = None


def instruction_items(evidence: Evidence) -> tuple[InstructionItem, ...]:
    """The items in the article's order."""
    section, config = compliance_of(evidence.config), evidence.config
    provider = [text for text in (stated(section.provider_name), stated(section.provider_contact)) if text]
    misuse = all_stated(risk_of(evidence.config).foreseeable_misuse)
    limitations, groups = stated(section.known_limitations), declaration(config, "3").text
    purpose = stated(section.intended_purpose)

    def declared(point: str) -> str | None:
        text = declaration(config, point).text or declaration(config, point).not_applicable
        return escape(text) if text else None

    return (
        InstructionItem(
            "13(3)(a)",
            "Identity and contact details of the provider",
            escape(", ".join(provider)) if len(provider) == 2 else None,
            "compliance.provider_name, compliance.provider_contact",
        ),
        InstructionItem(
            "13(3)(b)(i)", "Intended purpose", escape(purpose) if purpose else None, "compliance.intended_purpose"
        ),
        InstructionItem(
            "13(3)(b)(ii)", "Accuracy, robustness and cybersecurity", _measurements(evidence), "evaluation.benchmark"
        ),
        InstructionItem(
            "13(3)(b)(iii)",
            "Circumstances that may lead to risks",
            bullets(misuse) if misuse else None,
            "risk_assessment.foreseeable_misuse",
        ),
        InstructionItem(
            "13(3)(b)(iv)",
            "Capabilities to explain the output, and what is needed to interpret it (also (vii))",
            declared("2(e)"),
            "compliance.declarations['2(e)']",
        ),
        InstructionItem(
            "13(3)(b)(v)",
            "Limitations, and performance for specific persons or groups",
            escape(" ".join(text for text in (limitations, groups) if text)) or None,
            "compliance.known_limitations, compliance.declarations['3']",
        ),
        InstructionItem("13(3)(b)(vi)", "Specifications for the input data", _input(evidence), "model.max_length"),
        InstructionItem("13(3)(c)", "Pre-determined changes", declared("2(f)"), "compliance.declarations['2(f)']"),
        InstructionItem("13(3)(d)", "Human oversight measures", declared("2(e)"), "compliance.declarations['2(e)']"),
        InstructionItem(
            "13(3)(e)",
            "Computational and hardware resources needed, lifetime and maintenance",
            declared("1(e)"),
            "compliance.declarations['1(e)']",
            bullets(size_lines(memory_facts(evidence))),
        ),
        InstructionItem("13(3)(f)", "Collecting and keeping logs", declared("9"), "compliance.declarations['9']"),
    )


def render_instructions(evidence: Evidence) -> str:
    """``instructions_for_use.md``."""
    lines = [f"# Instructions for use: {escape(stated_name(evidence.config))}", "", status_line(evidence), ""]
    for item in instruction_items(evidence):
        lines += [f"## {item.asks} (Art. {item.article})", ""]
        lines += [
            item.content or f"**Missing.** Nobody has stated this yet; fill in `{item.fill_in}` in the recipe.",
            "",
        ]
        if item.measured:
            lines += ["Measured or recorded by the pipeline:", "", item.measured, ""]
    lines += [
        "The audit log in this bundle records how the model was made, tested and approved. It is not the log of the",
        "system in operation that Art. 12(1) asks for; that log is the deployed system's own.",
        "",
    ]
    return "\n".join(lines)


def _measurements(evidence: Evidence) -> str | None:
    lines = []
    for row in measurements(evidence):
        words = f"{row.what}, {row.metric}: {row.value:.3f} over {row.n} items"
        if row.interval is not None:
            words += f", 95 % interval {row.interval[0]:.3f} to {row.interval[1]:.3f}"
        lines.append(words + (f"; base model {row.base:.3f}" if row.base is not None else ""))
    safety = evidence.safety
    if safety is not None and safety.n and not safety.scorer_calibrated:
        lines.append(f"the scorer of the safety probes, {safety.scorer}, is not calibrated, so they decide nothing")
    return bullets(lines) if lines else None


def _input(evidence: Evidence) -> str:
    summary = evidence.tokenization
    lines = [
        f"text of at most {summary.max_length} tokens, as the model was trained",
        f"rendered with the tokenizer's chat template {summary.chat_template_digest}"
        if summary.chat_template_digest
        else "plain text, without a chat template",
    ]
    return bullets(lines)
