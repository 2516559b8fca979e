//! lsmstore
