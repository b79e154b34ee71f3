"""The pipeline: one module per stage, the same builders for every model line.

    recipe -> raw_dataset -> dataset_audit_report -> tokenized_dataset -> fine_tuned_model
           -> benchmark_report, safety_report, judge_report -> gguf_model -> annex_iv_bundle -> released_model

`scorer_calibration` before `safety_report`, `judge_report`, and `published_model` at the end: where a recipe asks.
`definitions.py` holds the one `defs`; `line.py` what all assets of a recipe share.
No module here uses `from __future__ import annotations`: Dagster reads the annotations.
"""

import warnings

# Partitioned asset checks are a preview in Dagster 1.13; tests/assets holds what we rely on.
warnings.filterwarnings("ignore", message="Specifying a partitions_def on an AssetCheckSpec is currently in preview")
warnings.filterwarnings("ignore", message="Function `PipesMessageReader.expected_writer_count` is currently in preview")
