"""The speed and size claims of this project, each measured beside what a user would use instead.

    python -m benchmarks [name ...]      all of them, or some; all of them also write RESULTS.md

One file per benchmark; a run has its own gateway, and ends it.
"""
