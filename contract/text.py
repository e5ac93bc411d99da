r"""Untrusted text made safe to show: a terminal obeys escape sequences in names and headers.

Escape sequences, control characters, line breaks, marks that turn the direction of writing, halves of surrogate pairs:
what ``str.isprintable`` does not call printable is shown as Python would write it, such as ``\x1b``.
"""

import re
from collections.abc import Sequence

LONGEST = 4000
"""Limit of one line in characters; the platform's log reader fails at lines of some 10,000 bytes."""
SHOWN = 10
"""How many of many names a message gives."""


def printable(text: str) -> str:
    r"""The same text, with an escape such as ``\x1b`` for each character that is not printable, line breaks too."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def one_line(message: str) -> str:
    """Fold any text into one printable line of bounded length; the platform shows only the last line of stderr."""
    line = printable(" ".join(str(message).split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[3 - LONGEST // 2 :]}"


def first_few(names: Sequence[str], most: int = SHOWN) -> str:
    """The first ``most`` of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def short_hash(found: str | None, absent: str = "none") -> str:
    """The first digits of a hash, enough to tell two apart in a message."""
    return absent if found is None else found[:12]


_MARKUP = re.compile(r"[\\`*~|]|<(?=[A-Za-z/!?])|\](?=[(\[:])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_MARK_OF_A_BLOCK = re.compile(r"^(\d{0,9})([.)](?=\s)|[#>+=-])")


def markdown(text: str) -> str:
    """A text as one paragraph or cell of Markdown that shows it and nothing else: no link, no HTML, no heading."""
    return _MARK_OF_A_BLOCK.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", printable(" ".join(text.split()))))


def printable_lines(text: str) -> str:
    """A text of several lines that is ours, such as a traceback, with each line made printable."""
    return "\n".join(map(printable, text.split("\n")))
