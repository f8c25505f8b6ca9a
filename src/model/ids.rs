//! Deterministic identifiers: UUIDv5 namespaces; collection, SCO and SDO ids.
