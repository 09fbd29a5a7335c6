"""What a mistake is, and the page that is made of all of them: `docs/troubleshooting.md`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import fill

import httpx2

from tests.scenarios.scene import Scene

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"

INTRODUCTION = """\
# Troubleshooting

Every refusal of coatcheck has a **code**: in the header `Coatcheck-Error`, in the JSON that a script gets, and in small
print on the page that a person gets. Beside it stands a `trace_id`; the **one line** of the log (logger `coatcheck`,
level WARNING) with the same `trace_id` names the cause and what to do. In development mode the page shows both, too.

Everyday refusals (`session_missing`, `session_expired`, `session_ended`) are logged at INFO.

Below, each mistake was made on purpose against a running coatcheck, and this is what came out. `./scripts/docs` writes
this page from tests/scenarios/test_mistakes.py; do not edit it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """
    *induce* makes the mistake and returns the answer that the browser got: *status*, and *code* unless it is not ours.

    *names* are words that the one log line must have, so that it tells the cause and the fix. *advice* is for the page.
    """

    chapter: str
    title: str
    status: int
    code: str | None
    names: tuple[str, ...]
    advice: str
    induce: Callable[[Scene], httpx2.Response]
    what: str = ""
    """Words for an answer that has no code."""
    alarm: str = ""
    """With what word the one alarm begins that is raised beside, for somebody has to act."""

    @property
    def name(self) -> str:
        return self.induce.__name__

    def section(self, line: str) -> str:
        """This mistake on the page; *line* is its log line."""
        seen = f"**{self.status}** " + (f"`{self.code}`" if self.code else self.what)
        alarm = f"Beside it stands one ERROR, `{self.alarm}`, however many calls it concerns.\n\n" if self.alarm else ""
        return (
            f"### {self.title}\n\nThe browser gets {seen}, and the log has:\n\n"
            f"```text\n{line}\n```\n\n{alarm}{self.advice}\n"
        )


class Mistakes(list[Mistake]):
    """Those of one chapter; `induced` adds one by decorating its function."""

    def __init__(self, chapter: str) -> None:
        super().__init__()
        self._chapter = chapter

    def induced(
        self,
        title: str,
        status: int,
        code: str | None,
        *,
        names: Sequence[str],
        advice: str,
        what: str = "",
        alarm: str = "",
    ) -> Callable[[Callable[[Scene], httpx2.Response]], Callable[[Scene], httpx2.Response]]:
        def add(induce: Callable[[Scene], httpx2.Response]) -> Callable[[Scene], httpx2.Response]:
            mistake = Mistake(
                chapter=self._chapter,
                title=title,
                status=status,
                code=code,
                names=tuple(names),
                advice=fill(" ".join(advice.split()), 120, break_on_hyphens=False, break_long_words=False),
                induce=induce,
                what=what,
                alarm=alarm,
            )
            self.append(mistake)
            return induce

        return add


def page(mistakes: Sequence[Mistake], lines: Mapping[str, str]) -> str:
    """The whole page; *lines* has the log line of each mistake by its name."""
    parts = [INTRODUCTION]
    for chapter, group in groupby(mistakes, key=lambda mistake: mistake.chapter):
        parts.append(f"## {chapter}\n")
        parts += [mistake.section(lines[mistake.name]) for mistake in group]
    return "\n".join(parts)


def lines_of(text: str, mistakes: Sequence[Mistake]) -> dict[str, str]:
    """The log lines that stand on a page, by the mistakes' names; empty where the page lacks one."""
    found = {}
    for mistake in mistakes:
        match = re.search(rf"^### {re.escape(mistake.title)}$.*?^```text\n(.*?)\n```", text, re.MULTILINE | re.DOTALL)
        found[mistake.name] = match[1] if match else ""
    return found
