//! kriya-pg
