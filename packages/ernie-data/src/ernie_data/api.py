"""The public surface for authors of curation stages. Importing it imports neither torch nor Pillow nor pyarrow.

.. code-block:: python

    from ernie_core.api import Config, Entry, hookimpl
    from ernie_data.api import Item, Kept, ReasonCode, RecordStage, Refuse

    @hookimpl
    def ernie_register_data_stages():
        yield Entry("my-stage", "what it does", MyConfig, "my_package.stage:build")
"""

from ernie_data.engine.stage import BatchStage, DataStage, Item, Kept, RecordStage, Refuse, Surveyor
from ernie_data.reasons import ReasonCode

__all__ = ["BatchStage", "DataStage", "Item", "Kept", "ReasonCode", "RecordStage", "Refuse", "Surveyor"]
