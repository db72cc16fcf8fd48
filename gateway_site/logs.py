"""Structured logs: one JSON object a line. Values come from fields we name, never from headers or bodies."""

import json
import logging
from datetime import UTC, datetime

_FIELDS = ("request_id", "address", "reason", "status", "backend", "part", "spool", "rows")


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, then whichever of the known fields the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; a traceback goes into `exception`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
