"""The pipeline: one module per stage, the same builders for every model line.

    recipe -> raw_dataset -> dataset_audit_report -> tokenized_dataset -> fine_tuned_model
           -> benchmark_report, safety_report -> gguf_model -> annex_iv_bundle -> released_model

`definitions.py` holds the one `defs`; `line.py` what all assets of a recipe share.
No module here uses `from __future__ import annotations`: Dagster reads the annotations.
"""
