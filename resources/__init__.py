"""How the library meets a Dagster run: the artefact store, IO managers, the audit log, child processes.

Imports go one way: assets -> resources -> forge_pipeline. No module here uses
`from __future__ import annotations`: it would hide the annotations that Dagster reads.
"""
