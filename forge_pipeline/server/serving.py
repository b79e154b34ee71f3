"""Serve the application with uvicorn: what `forge serve` does."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import uvicorn

from forge_pipeline.errors import ConfigError
from forge_pipeline.logs import setup_logging
from forge_pipeline.server.app import create_app
from forge_pipeline.server.request_ids import RequestIdFilter
from forge_pipeline.server.settings import ServerSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `forge serve`. Each has an environment variable too, which it overrides."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1; others need FORGE_API_KEYS)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8000)")
    parser.add_argument("--data-dir", help="where jobs, uploads, models and Dagster's history lie (default .forge)")
    parser.add_argument("--dagster-url", help="a running dagster-webserver; without it one is started and supervised")


def serve(settings: ServerSettings) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status: 0 after an orderly end, 3 if it could not start."""
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        server_header=False,
        ws_max_size=2**16,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse options, set up logging, serve."""
    parser = argparse.ArgumentParser(prog="forge serve", description="REST API and web studio of Forge Pipeline.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        setup_logging(os.environ, default_level="info")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    for handler in logging.getLogger().handlers:
        handler.addFilter(RequestIdFilter())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = ServerSettings.read(
            host=options.host, port=options.port, data_dir=options.data_dir, dagster_url=options.dagster_url
        )
        # The library looks for its cache of base models here; it is the one that the runs use.
        os.environ["FORGE_HOME"] = str(settings.data_dir)
        return serve(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
