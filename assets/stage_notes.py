"""What each stage proves and which provisions its evidence supports: for who reads the asset, not for who writes it.

"Supports" is meant: evidence is not conformity. The whole map is docs/explanation/law-map.md. What a stage refuses is
not repeated here: the page lists the line's own blocking checks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageNote:
    """Attributes:
    proves: What its record shows to somebody who does not trust the operator's word.
    supports: Provisions that ask for such evidence.
    refuses: What the stage itself will not do, however it is launched; empty where it takes what it is given.
    """

    proves: str
    supports: str
    refuses: str = ""


STAGE_NOTES = {
    "recipe": StageNote(
        "Which settings and thresholds applied, and that they were in the log before anything was trained or measured.",
        "AI Act Art. 9(8) (thresholds defined before testing), Art. 17(1)(d), Annex IV 2(b)",
        "A recipe that does not validate.",
    ),
    "synthetic_dataset": StageNote(
        "Which rows a teacher model wrote, from which prompts and with which settings.",
        "AI Act Art. 10(2)(b) (origin of data), Annex IV 2(d)",
    ),
    "raw_dataset": StageNote(
        "Where every row came from: source, licence, digest, and how many could not be read.",
        "AI Act Art. 10(2)(b), Annex IV 2(d), Art. 53(1)(d)",
    ),
    "clean_dataset": StageNote(
        "Which rows were removed or masked, each with its reason.",
        "AI Act Art. 10(2)(c) (data preparation), Annex IV 2(d); GDPR Art. 5(1)(c)",
    ),
    "dataset_audit_report": StageNote(
        "What was looked for in exactly these rows, and how much was found: personal data, secrets, repeats, overlap.",
        "AI Act Art. 10(2)(f) to (h) (examination), Annex IV 2(d); GDPR Art. 25",
    ),
    "tokenized_dataset": StageNote(
        "Which tokens the model learned from, and that the audit had let exactly these rows through.",
        "AI Act Annex IV 2(d)",
        "Rows whose audit did not pass its gates, or that have none.",
    ),
    "fine_tuned_model": StageNote(
        "Which weights came from which rows, base model, code, settings, machine and compute.",
        "AI Act Annex IV 2(a) to (c), Art. 53 and Annex XI (compute of a modification)",
    ),
    "benchmark_report": StageNote(
        "How the model scored beside its base model, item by item, with intervals, for exactly these weights.",
        "AI Act Art. 15(1), Art. 9(6) to (8), Annex IV 2(g) and 3",
    ),
    "scorer_calibration": StageNote(
        "How often the safety scorer is wrong, on answers that people labeled.",
        "AI Act Art. 15(3), Annex IV 2(g) and 4",
    ),
    "safety_report": StageNote(
        "How often answers were unsafe, as an upper confidence bound against the limit that the recipe fixed before.",
        "AI Act Art. 9(6) to (8), Annex IV 2(g)",
    ),
    "judge_report": StageNote(
        "What a judge model thought of the answers, by which rubric, with the order of answers swapped.",
        "AI Act Art. 9(6) to (8), Annex IV 2(g)",
    ),
    "gguf_model": StageNote(
        "That the delivered file answers as the tested model does, and which model, recipe and log it came from.",
        "AI Act Annex IV 1(d), 1(e) and 2(h), Art. 15",
        "A model whose gates that guard export did not pass for exactly its digest.",
    ),
    "annex_iv_bundle": StageNote(
        "Everything above in one folder that a stranger can verify with Python alone.",
        "AI Act Art. 11 and Annex IV, Art. 12, Art. 18(1)",
    ),
    "released_model": StageNote(
        "That gates, digests, history and the people's approvals held at the moment of the release.",
        "AI Act Art. 9 and Art. 17(1); Annex IV 2(g) (signed and dated)",
        "A candidate that lacks a passed gate, a matching digest or an approval. It fails closed.",
    ),
    "published_model": StageNote(
        "What was sent where, with the licence and the model card that went along.",
        "AI Act Art. 13, Art. 53(1)(b)",
        "A model that is not the released one.",
    ),
}
