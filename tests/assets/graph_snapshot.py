"""The asset graph of every kind of line as one JSON document, and the command that renews its copy in the repository.

    python -m tests.assets.graph_snapshot            renew tests/assets/graph.json
    python -m tests.assets.graph_snapshot --check    say what differs, exit code 1 if anything does

What of a definition is a promise to others stands in it: keys, dependencies, checks and whether they block, groups,
kinds, owners, tags, pools, IO managers, whether there is a code version, which code is referred to, jobs, sensors and
schedules. What changes with every edit of the library does not: digests, line numbers, words.
"""

import difflib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import dagster as dg

CHECKOUT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("graph.json")

_BASE = (
    "owners: ['team:ml', 'ada@example.com']\nmodel: {name_or_path: m, load_in_4bit: false}\nlora: {}\n"
    "data: {dataset_name_or_path: d}\ntraining: {}\n"
)
LINES = {
    "plain": _BASE,
    "everything": _BASE.replace("dataset_name_or_path: d", "dataset_name_or_path: d, clean: {enabled: true}")
    + "synthetic: {enabled: true, teacher_backend: file, seed_prompts: [a], teacher_model: t, seed_file: ''}\n"
    + "evaluation: {safety: {enabled: true, calibration: labels.jsonl}, llm_judge: {enabled: true}}\n"
    + "release: {push_to: owner/name}\n",
    "chain": _BASE
    + "pipeline: {stages: [{name: sft, training: {trainer_type: sft}}, "
    + "{name: dpo, training: {trainer_type: dpo}, data: {dataset_name_or_path: pairs.jsonl}}]}\n",
    "broken": "model: {}\n",
}


def snapshot() -> dict[str, Any]:
    """The graph of `LINES` and of the studio line, built as the code location builds it."""
    from assets.definitions import build_definitions
    from resources.home import Home

    with tempfile.TemporaryDirectory() as folder:
        for name, text in LINES.items():
            Path(folder, f"{name}.yaml").write_text(text)
        definitions = build_definitions(Path(folder), Home(Path(folder)), str(Path(folder, "store")))
        repository = definitions.get_repository_def()
        graph = repository.asset_graph
        keys = sorted(graph.get_all_asset_keys())
        return {
            "assets": {key.to_user_string(): _asset(graph.get(key), repository) for key in keys},
            "checks": {
                f"{check.asset_key.to_user_string()}:{check.name}": {
                    "blocking": graph.get_check_spec(check).blocking,
                    "says_what_it_holds": bool(graph.get_check_spec(check).description),
                }
                for check in sorted(graph.asset_check_keys, key=lambda each: (each.asset_key, each.name))
            },
            "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
            "schedules": sorted(each.name for each in repository.schedule_defs),
            "sensors": sorted(each.name for each in repository.sensor_defs),
            "resources": sorted(repository.get_top_level_resources()),
        }


def _asset(node: Any, repository: dg.RepositoryDefinition) -> dict[str, Any]:
    from assets.asset_pages import references_of

    definition = repository.assets_defs_by_key[node.key]
    return {
        "deps": sorted(key.to_user_string() for key in node.parent_keys),
        "group": node.group_name,
        "kinds": sorted(node.kinds),
        "owners": sorted(node.owners),
        "tags": {name: value for name, value in sorted(node.tags.items()) if not name.startswith("dagster/kind/")},
        "pools": sorted(node.pools or ()),
        "io_manager": definition.get_io_manager_key_for_asset_key(node.key),
        "partitions": getattr(node.partitions_def, "name", None),
        "has_code_version": bool(node.code_version),
        "optional": not definition.op.output_dict["result"].is_required,
        "sections": re.findall(r"^\*\*([^*,.]+)", node.description or "", re.M),
        "code": [
            f"{each.label}: {os.path.basename(str(getattr(each, 'file_path', None) or getattr(each, 'url', None)).split('#')[0])}"
            for each in references_of(node.metadata)
        ],
    }


def text(value: dict[str, Any]) -> str:
    """Canonical: sorted keys, one value a line."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def difference() -> str:
    """What the graph of now has and the copy in the repository has not, as a unified diff; empty if nothing."""
    before, now = SNAPSHOT.read_text(encoding="utf-8").splitlines(), text(snapshot()).splitlines()
    return "\n".join(difflib.unified_diff(before, now, "graph.json", "now", lineterm="", n=2))


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        found = difference()
        print(found or "the graph is as it was")
        sys.exit(bool(found))
    SNAPSHOT.write_text(text(snapshot()), encoding="utf-8")
    print(f"wrote {SNAPSHOT.relative_to(CHECKOUT)}")
