//! kriya-engine
