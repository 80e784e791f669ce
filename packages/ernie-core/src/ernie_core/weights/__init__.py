"""Reading, comparing and exporting weight files. Only safetensors: no pickle is ever opened."""
