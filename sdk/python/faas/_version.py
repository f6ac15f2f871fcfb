"""The version, as a constant: to read it from the metadata would cost more than all of `import faas`."""

__version__ = "0.1.0"
