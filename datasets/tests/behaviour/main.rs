//! What the readers, the exact search and the checked-in data promise.

mod catalogue_entries_are_complete;
mod checked_in_data_are_what_they_claim;
mod files_are_read_as_their_formats_say;
#[cfg(feature = "hdf5")]
mod hdf5_tables_are_read_as_the_same_vectors;
mod hostile_files_are_refused_with_a_sentence;

use std::path::PathBuf;

/// A file of the checked-in data.
fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}
