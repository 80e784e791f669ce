"""On which line of a TOML text each key stands. ``tomllib`` gives no positions, so this reads the text a second time.

It runs only after ``tomllib`` accepted the text, and therefore looks for structure and trusts the rest. A path is a tuple of table keys and list indices.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t]|\r?\n|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_PLAIN = re.compile(r"[^,\]}#\n]*")  # numbers, booleans, dates
_STRINGS = {  # by opening quotes, longest first
    '"""': re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    "'''": re.compile(r"'''.*?'{3,5}", re.DOTALL),
    '"': re.compile(r'"(?:\\.|[^"\\\n])*"'),
    "'": re.compile(r"'[^'\n]*'"),
}
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}


def locate(text: str) -> dict[Path, int]:
    """Line (from 1) of every key, table and list element of a valid TOML text."""
    return _Locator(text.replace("\r\n", "\n")).run()


class _Locator:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.lengths: dict[Path, int] = {}  # of arrays of tables
        self._seen_at, self._seen_line = 0, 1

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return self.lines
            if self.text.startswith("[[", self.at):
                table = self._header(2, many=True)
            elif self.text[self.at] == "[":
                table = self._header(1, many=False)
            else:
                self._pair(table)

    def _header(self, brackets: int, *, many: bool) -> Path:
        line = self._line()
        self.at += brackets
        keys = self._keys()
        self.at += brackets
        path: Path = ()
        for number, key in enumerate(keys):
            path += (key,)
            self.lines.setdefault(path, line)
            last = number == len(keys) - 1
            if last and many:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path += (self.lengths[path] - 1,)
                self.lines.setdefault(path, line)
            elif last:
                self.lines[path] = line  # `[a.b]` before `[a]`: the table's own header is the better place
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path += (key,)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                keys.append(self._string())
            else:
                match = _BARE.match(self.text, self.at)
                if match is None:
                    raise ValueError(f"no key at line {self._line()}")
                keys.append(match[0])
                self.at = match.end()
            self._skip(_SPACE)
            if self.text[self.at : self.at + 1] != ".":
                return keys
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        opening = self.text[self.at : self.at + 1]
        if opening in ('"', "'"):
            self._skip_string()
        elif opening == "[":
            self._sequence("]", path, pairs=False)
        elif opening == "{":
            self._sequence("}", path, pairs=True)
        else:
            self._skip(_PLAIN)

    def _sequence(self, closing: str, path: Path, *, pairs: bool) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            here = self.text[self.at : self.at + 1]
            if here in (closing, ""):
                self.at += 1
                return
            if here == ",":
                self.at += 1
            elif pairs:
                self._pair(path)
            else:
                self.lines[(*path, index)] = self._line()
                self._value((*path, index))
                index += 1

    def _string(self) -> str:
        start = self.at
        self._skip_string()
        body = self.text[start + 1 : self.at - 1]
        if self.text[start] == "'":
            return body
        return re.sub(r"\\(?:u(\w{4})|U(\w{8})|x(\w{2})|(.))", _unescape, body)

    def _skip_string(self) -> None:
        for opening, pattern in _STRINGS.items():
            if self.text.startswith(opening, self.at):
                match = pattern.match(self.text, self.at)
                if match is not None:
                    self.at = match.end()
                    return
        raise ValueError(f"an unfinished string at line {self._line()}")

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def _line(self) -> int:
        self._seen_line += self.text.count("\n", self._seen_at, self.at)
        self._seen_at = self.at
        return self._seen_line


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    return chr(int(code, 16)) if code else _ESCAPES.get(match[4], match[4])
