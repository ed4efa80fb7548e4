"""The records' schema, version by version; ``service.records.migrate`` runs them at start."""
