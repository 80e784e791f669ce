from ernie_core.api import Config, Entry, PositiveInt, hookimpl

ERNIE_API = (0, 1)


class PicturesConfig(Config):
    count: PositiveInt = 12
    empty: bool = False
    """Every third record has a prompt of blanks."""


class ShadesConfig(Config):
    count: PositiveInt = 200


class WordsConfig(Config):
    """``fault``: which law it breaks."""

    fault: str = ""


class GateConfig(Config):
    sum: float = 1.0


class ScorerConfig(Config):
    gradient: bool = True
    deaf: bool = False
    """It takes tensors and gives no gradient all the same."""


@hookimpl
def ernie_register_data_sources():
    yield Entry("memory-pictures", "coloured pictures, computed", PicturesConfig, "memory_distill.sources:build")
    yield Entry("memory-shades", "red and blue pictures, one domain each", ShadesConfig, "memory_distill.sources:Shades")


@hookimpl
def ernie_register_gates():
    yield Entry("memory-gate", "the first two teachers by turns of sigma", GateConfig, "memory_distill.parts:build_gate")
    yield Entry("memory-words", "the more words, the more the last teacher counts", WordsConfig, "memory_distill.words:Words")


@hookimpl
def ernie_register_scorers():
    yield Entry("memory-brightness", "mean brightness", ScorerConfig, "memory_distill.parts:build_scorer")
