"""`python -m tocsin.emulator --directory DIR`: the emulator alone, without the rest of tocsin."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tocsin.emulator.run import Emulator, EmulatorError, EmulatorOptions, serve


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tocsin.emulator", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="first of five; 0: free ones")
    parser.add_argument("--topic", action="append", default=[], help="only these topics are allowed")
    parser.add_argument("--inbox", type=int, default=20_000, help="how many pushes to keep")
    parser.add_argument("--known-tokens", type=int, default=100_000, help="how many tokens belong somewhere")
    parser.add_argument("--journal", type=Path, help="a line for every accepted push")
    parser.add_argument("--journal-bodies", action="store_true")
    parser.add_argument("--faults", type=Path, help="a TOML file with a fault script")
    parser.add_argument("--max-streams", type=int, default=1000)
    parser.add_argument("--start-with-one-stream", action="store_true")
    parser.add_argument("--token-update-interval", type=float, default=0.0, help="seconds; Apple's is 1200, 0 is off")
    parser.add_argument("--access-token-lifetime", type=int, default=3600, help="seconds")
    return parser


def main() -> int:
    given = parser().parse_args()
    options = EmulatorOptions(
        directory=given.directory,
        host=given.host,
        port=given.port,
        topics=frozenset(given.topic),
        inbox_size=given.inbox,
        known_tokens=given.known_tokens,
        journal=given.journal,
        journal_bodies=given.journal_bodies,
        faults=given.faults,
        max_streams=given.max_streams,
        start_with_one_stream=given.start_with_one_stream,
        token_update_interval_s=given.token_update_interval,
        access_token_lifetime_s=given.access_token_lifetime,
    )
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        try:
            runner.run(serve(options, _announce))
        except EmulatorError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _announce(emulator: Emulator) -> None:
    print(json.dumps(emulator.summary, indent=2), flush=True)


if __name__ == "__main__":
    sys.exit(main())
