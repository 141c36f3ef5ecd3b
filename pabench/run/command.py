# SPDX-License-Identifier: Apache-2.0
"""One frame for every activity: everything around a run that is not the run.

``run_activity`` does what the options of ``options.py`` say: it looks where files would go before any work,
opens or resumes the run directory, lets the engine run, and writes report, JSON and JUnit, also after an
interrupt.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench import __version__
from pabench.console import say
from pabench.errors import EXIT_OK, UsageError
from pabench.run.arguments import command_arguments
from pabench.run.directory import RunDirectory, check_new
from pabench.run.engine import Engine, cut_short
from pabench.run.fleet import Fleet
from pabench.run.options import Options, default_jobs, default_out
from pabench.run.plug import Activity, Facts, Item
from pabench.run.record import Record, Status
from pabench.run.replicates import folded
from pabench.run.signals import no_stop, stop_signals
from pabench.text import one_line

SHOWN_ITEMS = 400
FOLDER_OPTIONS = ("--out", "--artifacts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What an activity prints; all of it optional.

    Attributes:
        who: the subjects, for the first line.
        summary: prints what came of it, or returns the lines that say so.
        json: further fields of the JSON file.
        properties: of the JUnit file.
        items: lines of a dry run.
        warm_up: called when everything is opened, before a file is written.
        opened: told the run directory before the first item.
    """

    who: str = ""
    summary: Callable[[Sequence[Record]], Iterable[str] | None] | None = None
    json: Callable[[Sequence[Record]], Mapping[str, Any]] = lambda records: {}
    properties: Callable[[Sequence[Record]], Mapping[str, str]] = lambda records: {}
    items: Callable[[Sequence[Any]], Iterable[str]] | None = None
    warm_up: Callable[[Engine], None] = lambda engine: None
    opened: Callable[[Engine, RunDirectory, Facts], None] = lambda engine, directory, facts: None


def run_activity(
    activity: Activity, options: Options, words: Words = Words(), *, one_job: bool = False
) -> int:
    """Run an activity as its options say, print what came of it, and return the exit code.

    Args:
        activity: the plug.
        options: see ``options_of``.
        words: what it prints.
        one_job: one worker is the default, as where time is measured.

    Raises:
        PabenchError: the request cannot be met, or the machine gave out.
    """
    began = time.monotonic()
    path, shared = options.out or default_out(activity.kind), default_jobs()
    resumed = options.resume and _begun(path)
    if not resumed:
        _make_room(path, overwrite=options.overwrite, dry_run=options.dry_run)

    # a fleet has as many places as it has GPUs, or cores; where time is measured, one a machine
    fleet = None if options.ray is None else _fleet(options)

    def jobs(facts: Facts) -> int:
        if fleet is not None:
            return fleet.nodes if one_job and facts.device != "cuda" else fleet.places
        return 1 if one_job or facts.device == "cuda" else shared

    deadline_s = None if options.in_process else options.deadline_s
    with (
        # opening a device can take minutes, and a job can be cancelled meanwhile
        stop_signals(),
        Engine(activity, deadline_s=deadline_s, jobs=options.jobs, default_jobs=jobs, fleet=fleet) as engine,
    ):
        facts = engine.prepare()
        items = activity.items(facts)
        count = f"{len(items)} {activity.noun}{'' if len(items) == 1 else 's'}"
        if options.dry_run:
            for line in (words.items or _item_lines)(items[:SHOWN_ITEMS]):
                say(line)
            if len(items) > SHOWN_ITEMS:
                say(f"... and {len(items) - SHOWN_ITEMS} more")
            say(f"{count} on device {facts.device}; nothing was written")
            return EXIT_OK
        words.warm_up(engine)
        if not resumed:
            check_new(path)
        run: RunDirectory | None = None
        with contextlib.ExitStack() as stack:
            try:
                # a signal waits until the folder is a run; from then on it closes the run
                with no_stop():
                    run = stack.enter_context(_open(activity, path, facts, resumed=resumed))
                say(f"pabench {activity.kind}: {words.who or count} on {facts.description}", err=True)
                words.opened(engine, run, facts)
                ends_at = None if options.budget_s is None else began + options.budget_s
                finished = engine.run(items, run, ends_at=ends_at, max_failures=options.maxfail)
            except KeyboardInterrupt:
                if run is None or run.run["status"] != "running":
                    raise
                finished = cut_short(run)
    ran = [record for record in finished.records if record.status != Status.INTERRUPTED]
    again = resume_line(path)
    if finished.interrupted:
        say(f"pabench: interrupted: {len(ran)} of {count} are in {path}; go on with: {again}", err=True)
    records = folded(finished.records)
    word, colour, sentence = _verdict(path)
    say(sentence, lead=word, colour=colour)
    for line in (words.summary or plain_summary)(records) or ():
        say(line)
    if finished.not_run:
        say(f"{finished.not_run} of {count} not run: {finished.why_not}; go on with: {again}")
    write_files(activity.kind, records, finished.exit_code, options, words, path)
    return finished.exit_code


def _fleet(options: Options) -> Fleet:
    from pabench.run.ray_fleet import RayFleet

    assert options.ray is not None
    return RayFleet(options.ray, device=options.device)


def _verdict(path: Path) -> tuple[str, str, str]:
    from pabench.report.verdict_line import verdict_line
    from pabench.run.read import read_run

    return verdict_line(read_run(path))


def write_files(
    kind: str, records: Sequence[Record], code: int, options: Options, words: Words, path: Path
) -> None:
    """Write the report, and the files that were asked for."""
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE
    from pabench.run.files import atomic_write_text, pretty
    from pabench.run.junit import junit_text
    from pabench.run.schema import SCHEMA

    report = render_report([path], path / REPORT_FILE)
    if options.html is not None:
        render_report([path], options.html)
    if options.junit is not None:
        atomic_write_text(options.junit, junit_text(kind, records, words.properties(records)))
    if options.json is not None:
        said = {
            "schema": SCHEMA,
            "pabench": __version__,
            "kind": kind,
            "exit_code": code,
            "totals": totals(records),
            **words.json(records),
            "records": [record.to_line() for record in records],
        }
        atomic_write_text(options.json, pretty(said))
    say(f"report: {report}")


def totals(records: Sequence[Record]) -> dict[str, int]:
    """Return how many records there are, and how many of each status."""
    counts = {str(status): sum(record.status == status for record in records) for status in Status}
    return {"items": len(records), **{name.replace("-", "_"): count for name, count in counts.items()}}


def plain_summary(records: Sequence[Record]) -> Iterable[str]:
    """Yield a line an item that is not passed, then the counts."""
    for record in records:
        if record.status != Status.PASSED:
            yield f"{str(record.status).upper()} {record.label}: {one_line(record.reason or '')}"
            if record.failure is not None:
                yield f"  again: {record.failure.replay}"
    counts = totals(records)
    said = [
        f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count and name != "items"
    ]
    yield f"{counts['items']} items: {', '.join(said) or 'nothing ran'}"


def program() -> list[str]:
    """Return the words that start the program: ``pabench``, or a plug's own file."""
    script = sys.argv[0]
    own = not script.endswith(".py") or Path(script).name in ("__main__.py", "pabench")
    return ["pabench"] if own else ["python", script]


def command_line() -> str:
    """Return the command as a user would type it again."""
    return shlex.join([*program(), *_given()])


def resume_line(path: Path) -> str:
    """Return the command that goes on with the run in ``path``: what was typed, and where it is."""
    kept: list[str] = []
    words = iter(_given())
    for word in words:
        if word in FOLDER_OPTIONS:
            next(words, None)
        elif word not in ("--resume", "--overwrite") and not word.startswith(
            tuple(f"{option}=" for option in FOLDER_OPTIONS)
        ):
            kept.append(word)
    return shlex.join([*program(), *kept, "--resume", "--out", str(path)])


def _given() -> Sequence[str]:
    return sys.argv[1:] if (given := command_arguments.get()) is None else given


def _begun(path: Path) -> bool:
    """Whether there is a run to resume; an empty folder is one that has not begun."""
    from pabench.run.read import RUN_FILE, read_run

    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    if not (path / RUN_FILE).exists():
        read_run(path)  # says what is wrong with it
    return True


def _make_room(path: Path, *, overwrite: bool, dry_run: bool) -> None:
    from pabench.run.read import RUN_FILE

    if overwrite and path.is_dir() and (path / RUN_FILE).is_file() and not dry_run:
        shutil.rmtree(path)
    check_new(path)


def _open(activity: Activity, path: Path, facts: Facts, *, resumed: bool) -> Any:
    from pabench.run.files import plain
    from pabench.run.provenance import collect

    config = plain(dict(activity.config(facts)))
    if not resumed:
        provenance = collect(device_name=facts.device, device_description=facts.description)
        found = {"subjects": facts.more["subjects"]} if "subjects" in facts.more else {}
        return RunDirectory.create(
            path,
            kind=activity.kind,
            command=command_line(),
            config=config,
            provenance={**provenance, **found},
        )
    directory = RunDirectory.open(path, kind=activity.kind)
    stored = directory.run["config"]
    for key, value in config.items():
        if stored.get(key) != value:
            directory.close()
            said = activity.differs(key, stored.get(key), value)
            raise UsageError(f"--resume: {said} as in the run in {path}", hint="use a new --out")
    return directory


def _item_lines(items: Sequence[Item]) -> Iterable[str]:
    return (f"{item.id}  {item.label}" for item in items)
