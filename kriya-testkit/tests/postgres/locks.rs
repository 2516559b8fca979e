//! Row locks.
