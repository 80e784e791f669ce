"""The curation engine: immutable work units, their store, and the process pool that runs them."""
