//! One timestamp type: microseconds since the Unix epoch, UTC.
