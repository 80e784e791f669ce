"""For plugin authors: contract classes to subclass (``ernie_core.testing.contracts``) and tiny models. Install ``ernie-core[train,testing]``."""
