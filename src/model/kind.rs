//! Indicator types and the STIX object types they are served as.
