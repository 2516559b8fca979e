//! Which files of a folder somebody writes or has mapped: whoever wants room there leaves them alone.
//!
//! A file is held before it is made, and its name is never used for another one. So a file that was seen in the folder
//! and is then not held will never be needed again.

use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names of files in use, and how many hold each.
#[derive(Debug, Default)]
pub struct InUse(Mutex<HashMap<String, usize>>);

impl InUse {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds files for as long as the value lives.
    pub fn hold<const N: usize>(self: &Arc<InUse>, names: [String; N]) -> Held {
        let mut counts = self.lock();
        for name in &names {
            *counts.entry(name.clone()).or_default() += 1;
        }
        Held { names: names.into(), in_use: Arc::clone(self) }
    }

    /// Whether anybody holds the file.
    pub fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

/// Files are in use for as long as this lives.
pub struct Held {
    names: Vec<String>,
    in_use: Arc<InUse>,
}

impl Debug for Held {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.names).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.in_use.lock();
        for name in &self.names {
            if let Some(count) = counts.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
    }
}
