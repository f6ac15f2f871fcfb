"""Lifecycle and policy: which limits, how long, how much output. No HTTP here."""
