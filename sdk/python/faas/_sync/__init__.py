"""The sync client, generated from `faas/_async` by scripts/generate_sync.py, all but `_io.py` and `_unix.py`."""
