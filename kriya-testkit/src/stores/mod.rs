//! Object stores around others, for tests without a server: one that fails ([`FaultStore`]), one that remembers every
//! state a crash could have left ([`CrashStore`]).

mod crash;
mod faulty;

pub use crash::{CrashStore, Left};
pub use faulty::FaultStore;
