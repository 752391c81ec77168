"""Runs the emulator of APNs and FCM: `python -m tocsin.emulator --directory DIR`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tocsin.emulator.run import Emulator, EmulatorError, EmulatorOptions, serve


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tocsin.emulator", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where credentials and emulator.json are written")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="the first of five ports; 0: free ports")
    parser.add_argument("--topic", action="append", default=[], help="allow only this APNs topic (repeatable)")
    parser.add_argument("--inbox", type=int, default=20_000, help="how many accepted pushes to keep")
    parser.add_argument(
        "--known-tokens",
        type=int,
        default=100_000,
        help="for how many APNs device tokens to remember environment and topic",
    )
    parser.add_argument("--journal", type=Path, help="a file that gets one line for each accepted push")
    parser.add_argument("--journal-bodies", action="store_true", help="also write the data of each push")
    parser.add_argument("--faults", type=Path, help="a TOML file with a fault script")
    parser.add_argument("--max-streams", type=int, default=1000, help="streams per connection")
    parser.add_argument(
        "--start-with-one-stream", action="store_true", help="APNs: one stream until a request succeeded"
    )
    parser.add_argument("--token-update-interval", type=float, default=0.0, help="seconds; Apple's is 1200, 0 is off")
    parser.add_argument("--access-token-lifetime", type=int, default=3600, help="seconds")
    return parser


def main() -> int:
    """Run the emulator until SIGTERM or SIGINT; returns the exit status."""
    arguments = parser().parse_args()
    options = EmulatorOptions(
        directory=arguments.directory,
        host=arguments.host,
        port=arguments.port,
        topics=frozenset(arguments.topic),
        inbox_size=arguments.inbox,
        known_tokens=arguments.known_tokens,
        journal=arguments.journal,
        journal_bodies=arguments.journal_bodies,
        faults=arguments.faults,
        max_streams=arguments.max_streams,
        start_with_one_stream=arguments.start_with_one_stream,
        token_update_interval_s=arguments.token_update_interval,
        access_token_lifetime_s=arguments.access_token_lifetime,
    )
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        try:
            runner.run(serve(options, _print_summary))
        except EmulatorError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _print_summary(emulator: Emulator) -> None:
    print(json.dumps(emulator.summary, indent=2), flush=True)


if __name__ == "__main__":
    sys.exit(main())
