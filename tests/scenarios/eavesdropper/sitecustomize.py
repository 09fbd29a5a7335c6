"""
On the PYTHONPATH of a program under test, Python loads this first: whatever any logger is told from level DEBUG on, by
any library and whatever the program's logging is set to, goes to standard error with all that the record carries.
"""

import logging
import os
import traceback

_handle = logging.Logger.handle


def _heard(logger: logging.Logger, record: logging.LogRecord) -> None:
    error = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    line = f"HEARD {record.name} {record.levelname} {record.getMessage()} {record.__dict__!r} {error!r}\n"
    os.write(2, line.encode("utf-8", "backslashreplace"))
    _handle(logger, record)


def _always(logger: logging.Logger, level: int) -> bool:
    return level >= logging.DEBUG


logging.Logger.handle = _heard  # type: ignore[assignment, method-assign]
logging.Logger.isEnabledFor = _always  # type: ignore[assignment, method-assign]
