"""The async client. `faas/_sync` is generated from it by scripts/generate_sync.py, all but `_io.py`."""
