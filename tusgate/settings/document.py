"""`docs/settings.md`, written from the model: `python -m tusgate.settings.document > docs/settings.md`."""

from __future__ import annotations

from typing import Final

from tusgate.settings.model import ENV_PREFIX, Settings, help_of, kind_of, shown, topic_of

_INTRODUCTION: Final = """\
# Settings

Every setting can be given in four places. The first one that has it wins:

1. a flag of `tusgate serve`: `--part-size 16MiB`
2. the environment: `TUSGATE_PART_SIZE=16MiB`
3. the file `.env` in the working directory, written like the environment
4. a TOML file: `part_size = "16MiB"` in `tusgate.toml` in the working directory, or in the file that `--config` or
   `TUSGATE_CONFIG` names

`tusgate config` prints what is in force and where it came from. A wrong value, or a name that does not exist, stops
the start with one line and exit code 2.

- Sizes are numbers of bytes, or have a unit: `KiB`, `MiB`, `GiB`, `TiB` (1024), `KB`, `MB`, `GB`, `TB` (1000).
- Durations are numbers of seconds, or have units: `ms`, `s`, `m`, `h`, `d`, `w`; also `1h30m`.
- `none` switches off what can be switched off. An empty variable counts as not set.
- Secrets can be read from files: `TUSGATE_S3_SECRET_KEY_FILE=/run/secrets/s3` instead of `TUSGATE_S3_SECRET_KEY`.
- Without `TUSGATE_DATABASE_URL` offsets are kept in an SQLite file in `TUSGATE_DATA_DIR`, and one process serves.
- Without `TUSGATE_S3_ENDPOINT`, `TUSGATE_S3_BUCKET`, `TUSGATE_S3_ACCESS_KEY` and `TUSGATE_S3_SECRET_KEY` (all four
  or none) finished uploads are files in `objects` below `TUSGATE_DATA_DIR`.

This page is generated from the code; a test keeps it true.
"""


def settings_page() -> str:
    """Return the page that documents all settings, in Markdown."""
    topics: dict[str, list[str]] = {}
    for name in Settings.model_fields:
        topics.setdefault(topic_of(name), []).append(name)
    tables = (_table(topic, names) for topic, names in topics.items())
    return "\n".join([_INTRODUCTION, *tables])


def _table(topic: str, names: list[str]) -> str:
    rows = (f"| `{ENV_PREFIX}{name.upper()}` | {_value(name)} | {_default(name)} | {help_of(name)} |" for name in names)
    return "\n".join([f"## {topic}\n", "| name | value | default | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _value(name: str) -> str:
    return kind_of(name).label.replace("|", " or ")


def _default(name: str) -> str:
    text = shown(name, Settings.model_fields[name].default)
    return f"`{text}`" if text not in {"", "none"} else text or "empty"


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201 - this is what running it is for
