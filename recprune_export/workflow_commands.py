"""Workflow commands of GitHub Actions: lines of a log that the runner executes. A line that begins with `::name parameters::message`
annotates, masks or groups; `##[name]message` in a line is the older form.

Untrusted text must not contain either, and messages of this package are encoded as the runner decodes them.
"""

import os
import re

_COMMANDS = re.compile(r":(?=:)|#(?=#\[)")


def writes_github_log() -> bool:
    """Return whether the output is read by a runner of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def neutralize_commands(text: str) -> str:
    r"""Return text without commands, whatever its line breaks.

    >>> neutralize_commands("x\n::error::broken"), neutralize_commands("##[group]a")
    ('x\n:\\:error:\\:broken', '#\\#[group]a')
    """
    return _COMMANDS.sub(lambda match: match[0] + "\\", text)


def render_command(name: str, message: str, **properties: str) -> str:
    r"""Return a command as one line.

    >>> render_command("error", "100 % more\nthan before", title="latency, batch 1")
    '::error title=latency%2C batch 1::100 %25 more%0Athan before'
    """
    stated = ",".join(f"{key}={_encode_property(value)}" for key, value in properties.items())
    return f"::{name}{' ' if stated else ''}{stated}::{_encode_message(message)}"


def _encode_message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _encode_property(text: str) -> str:
    return _encode_message(text).replace(":", "%3A").replace(",", "%2C")
