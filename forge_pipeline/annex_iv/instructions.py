"""Instructions for use (Art. 13(3)): what a deployer must be told, with gaps left visible.

A skeleton: items are answered from declarations and measurements; what nobody has
stated stands there as **Missing**, never as boilerplate.
"""

from dataclasses import dataclass

from forge_pipeline.annex_iv.declarations import all_stated, compliance_of, declaration, risk_of, stated, stated_name
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.markdown import bullets, escape, status_line


@dataclass(frozen=True)
class InstructionItem:
    """One thing Art. 13(3) asks for.

    Attributes:
        article: ``13(3)(a)``, ...
        content: Markdown; None while nobody has stated it.
        fill_in: The recipe key that would answer it.
    """

    article: str
    asks: str
    content: str | None
    fill_in: str


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
    lines += [
        "The audit log in this bundle records how the model was made, tested and approved. It is not the log of the",
        "system in operation that Art. 12(1) asks for; that log is the deployed system's own.",
        "",
    ]
    return "\n".join(lines)


def _measurements(evidence: Evidence) -> str | None:
    lines = []
    if evidence.benchmark is not None and evidence.benchmark.scores:
        base = evidence.benchmark.base_scores
        for task, score in sorted(evidence.benchmark.scores.items()):
            beside = f" (base model: {base[task]:.3f})" if task in base else ""
            lines.append(f"{task}: {score:.3f}{beside}")
        lines.append(f"items measured: {evidence.benchmark.items}")
    safety = evidence.safety
    if safety is not None and safety.n:
        bound = f", at most {safety.upper_bound:.3f} with 95 % confidence" if safety.upper_bound is not None else ""
        calibrated = "calibrated" if safety.scorer_calibrated else "not calibrated, so this decides nothing"
        lines.append(f"unsafe answers: {safety.unsafe} of {safety.n}{bound}; scorer {safety.scorer} ({calibrated})")
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
