//! kriya-testkit
