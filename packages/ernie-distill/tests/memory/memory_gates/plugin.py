"""Light part: entries."""

from ernie_core.api import Config, Entry, hookimpl

ERNIE_API = (0, 1)


class WordsConfig(Config):
    """``fault``: which law it breaks."""

    fault: str = ""


class ShadesConfig(Config):
    count: int = 200


@hookimpl
def ernie_register_data_sources():
    yield Entry("memory-shades", "red and blue pictures, one domain each", ShadesConfig, "memory_gates.shades:Shades")


@hookimpl
def ernie_register_gates():
    yield Entry("memory-words", "the more words, the more the last teacher counts", WordsConfig, "memory_gates.words:Words")
