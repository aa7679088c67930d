"""Quoting of text in each language: no name ends its literal early, or becomes code."""


def one_line(text: str) -> str:
    r"""Return text for a comment: characters that could end a line or steer a terminal become escapes.

    >>> one_line("224\ntouch x")
    '224\\ntouch x'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell(text: str) -> str:
    """Return a word of a POSIX shell, always in quotes.

    >>> print(shell("it's"))
    'it'"'"'s'
    """
    return "'" + text.replace("'", "'\"'\"'") + "'"


def csv_field(text: str) -> str:
    """Return a field of a CSV row, in quotes where it contains a separator.

    >>> print(csv_field("R"), csv_field('5" x, y'))
    R "5"" x, y"
    """
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def double_quoted(text: str) -> str:
    r"""Return a string that YAML and TOML read alike; lone surrogates, which neither has, become escapes.

    >>> double_quoted('a"b\n')
    '"a\\"b\\n"'
    """
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    text = text.encode("utf-8", "backslashreplace").decode()
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def xml(text: str) -> str:
    """Return text of an XML element; characters that XML 1.0 has not become escapes of Python.

    >>> xml("a<b & c")
    'a&lt;b &amp; c'
    """
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def xml_comment(text: str) -> str:
    """Return text of an XML comment, which may not contain two dashes.

    >>> xml_comment("a --> b -")
    'a - -> b - '
    """
    text = one_line(text)
    while "--" in text:
        text = text.replace("--", "- -")
    return text + " " * text.endswith("-")


def markdown(text: str) -> str:
    r"""Return one line of Markdown that shows a text as it is, also in a cell of a table.

    >>> print(markdown("a|b <c> *d*"))
    a\|b \<c\> \*d\*
    """
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~&" else c for c in one_line(text))


def real(value: float) -> str:
    """Return a number that YAML 1.1 and TOML read as the same float: YAML takes 1e-05 for text.

    >>> real(0.5), real(1e-05)
    ('0.5', '1.0e-05')
    """
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return text if not e or "." in mantissa else f"{mantissa}.0e{exponent}"
