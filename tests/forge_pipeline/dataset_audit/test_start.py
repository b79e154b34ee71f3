"""What an audit of JSON lines does not import: each of these costs tens of milliseconds, the small audit's whole time."""

import json
import subprocess
import sys
from pathlib import Path

NOT_NEEDED = (
    "schwifty",
    "pycountry",
    "numpy.ma",
    "numba",
    "pandas",
    "datasets",
    "torch",
    "pydantic",
    "pyarrow.dataset",
    "forge_pipeline.data.reading",
    "forge_pipeline.data.documents",
)


def test_an_audit_of_json_lines_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    rows = ["Pay to DE89 3704 0044 0532 0130 00, or mail zoe@example.org, call +49 30 901820.", "Nothing to see here."]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in [*rows, *rows]))
    code = (
        "import sys\n"
        "from forge_pipeline.dataset_audit import audit_dataset\n"
        f"report = audit_dataset({str(path)!r}, output_dir={str(tmp_path / 'report')!r}, dedup_method='minhash')\n"
        f"print([name for name in {NOT_NEEDED!r} if name in sys.modules], report.pii_summary.get('iban'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 2"
