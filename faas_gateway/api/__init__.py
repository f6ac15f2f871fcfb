"""HTTP: routes, streams and errors. No backend is imported here."""
