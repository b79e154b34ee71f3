"""The REST service: jobs, datasets, models and a playground over HTTP, and a page that uses them.

It trains nothing itself. A job is a run of the Dagster line `studio`, started and
watched over GraphQL; nothing here imports dagster. `app.create_app(settings)` builds
the application with all its state on `app.state`; `python -m forge_pipeline.server`
serves it.
"""
