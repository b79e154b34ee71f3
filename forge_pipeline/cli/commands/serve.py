"""Serve the REST API and the web studio (the extra `server`)."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1; others need FORGE_API_KEYS)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8000)")
    parser.add_argument("--data-dir", help="where jobs, uploads, models and Dagster's history lie (default .forge)")
    parser.add_argument("--dagster-url", help="a running dagster-webserver; without it one is started and supervised")


def run(args: argparse.Namespace) -> int:
    from forge_pipeline._optional import require

    # By name: cli and server are siblings that do not import each other.
    serving = require("forge_pipeline.server.serving", extra="server", purpose="Servers")
    given = {"--host": args.host, "--port": args.port, "--data-dir": args.data_dir, "--dagster-url": args.dagster_url}
    options = [part for option, value in given.items() if value is not None for part in (option, str(value))]
    code: int = serving.main(options)
    return code
