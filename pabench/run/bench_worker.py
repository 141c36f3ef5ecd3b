# SPDX-License-Identifier: Apache-2.0
"""The generic worker process: makes an activity's bench and runs one item a message.

The first message names the bench and what it is made from; ``engine.py`` is the other side.  Nothing is
written here: records go out as messages.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from pabench.errors import PabenchError
from pabench.run.channel import Channel, Message, refusal
from pabench.run.plug import Answer, FailingCase, MakeBench
from pabench.run.record import record_of
from pabench.tracebacks import described

ENTRY = "pabench.run.bench_worker:work"


def work(channel: Channel) -> None:
    """Serve ``engine.py``; an error that pabench raises on purpose goes back as a message."""
    task = channel.receive()
    if task is None:
        return
    try:
        env = ChannelEnv(channel)
        bench = make_bench(task["bench"])(task["setup"], env)
        channel.send({"event": "ready", "facts": dict(bench.open())})
        while (order := channel.receive()) is not None:
            if "setup" in order:
                bench.close()
                bench = make_bench(task["bench"])(order["setup"], env)
                channel.send({"event": "ready", "facts": dict(bench.open())})
                continue
            if "ask" in order:
                channel.send({"event": "said", "said": dict(bench.ask(order["ask"]))})
                continue
            try:
                found = bench.run(order["item"])
            except PabenchError:
                raise
            except BaseException as error:
                channel.send({"event": "raised", "text": described(error)})
            else:
                channel.send({"event": "answer", **answer_to_message(found)})
    except PabenchError as error:
        channel.send(refusal(error))


class ChannelEnv:
    """Tells the engine what a bench says."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def loading(self, what: str) -> None:
        """See ``Env``."""
        self._channel.send({"event": "loading", "what": what})

    def case(self, case: FailingCase) -> None:
        """See ``Env``."""
        self._channel.send({"event": "case", "case": asdict(case)})

    def note(self, text: str) -> None:
        """See ``Env``."""
        self._channel.send({"event": "note", "text": text})


def make_bench(place: str) -> MakeBench:
    """Return what ``module:name`` or ``file.py:name`` names.

    Raises:
        PabenchError: it names nothing; a plug that is not whole is a fault of its author.
    """
    module, _, name = place.rpartition(":")
    try:
        found = _file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
        return cast(MakeBench, getattr(found, name))
    except (ImportError, AttributeError, OSError) as error:
        raise PabenchError(f"bench {place!r} cannot be loaded: {error}") from None


def _file(path: Path) -> Any:
    name = f"pabench_plug_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module can be made of {path}")
    # dataclasses look for the module of a class by its name
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer_to_message(answer: Answer) -> Message:
    """Return an answer as JSON values."""
    return {
        "record": answer.record.to_line(),
        "failing": None if answer.failing is None else asdict(answer.failing),
        "lost": answer.lost,
        "more": [record.to_line() for record in answer.more],
    }


def answer_of(message: Mapping[str, Any]) -> Answer:
    """Read ``answer_to_message`` back."""
    failing = message["failing"]
    return Answer(
        record=record_of(message["record"]),
        failing=None if failing is None else FailingCase(**failing),
        lost=bool(message["lost"]),
        more=tuple(record_of(line) for line in message["more"]),
    )
