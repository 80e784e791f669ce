"""ERNIE training system: plugin host, model, flow and trainer."""
