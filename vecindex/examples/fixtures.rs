//! Makes the files of `tests/fixtures`, which must be readable for ever.
//!
//! ```text
//! cargo run -p vecindex --example fixtures -- FOLDER
//! ```
//! The files of a version that was ever released are not made again: a new version of the format gets files of its own
//! beside them (change `VERSION` here), and the test `old_files` goes on opening the old ones.

#[allow(missing_docs)]
#[path = "../tests/behaviour/fixture.rs"]
mod fixture;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixture::{DIM, PARAMS, ROWS, label, row};
use kriya_region::Region;
use vecindex::{AppendVectors, Bf16, Encoding, F16, F32, Graph, Hnsw, I8, Metric, Rows, SplitF32, SplitI8, snapshot};

const VERSION: u32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: fixtures FOLDER")?);
    // In the order in which they come to be on one thread: with more, links may differ from time to time.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    make::<F32>(&folder, "f32", Metric::L2, false)?;
    make::<F16>(&folder, "f16", Metric::Cosine, false)?;
    make::<Bf16>(&folder, "bf16", Metric::InnerProduct, false)?;
    make::<I8>(&folder, "i8", Metric::Cosine, true)?;
    make::<SplitF32>(&folder, "split-f32", Metric::L2, false)?;
    make::<SplitI8>(&folder, "split-i8", Metric::L2, true)
}

fn rows<E: Encoding>(metric: Metric) -> Result<Rows<E>, Box<dyn Error>> {
    let region = Region::heap(Rows::<E>::bytes_needed(DIM, ROWS)?)?;
    Ok(Rows::create(Arc::new(region), metric, DIM, ROWS)?)
}

fn make<E: Encoding>(folder: &Path, name: &str, metric: Metric, with_exact: bool) -> Result<(), Box<dyn Error>> {
    let path = folder.join(format!("v{VERSION}-{name}.kv"));
    let graph = Region::heap(Graph::bytes_needed(ROWS, PARAMS.m)?)?;
    let index = Hnsw::new(rows::<E>(metric)?, Graph::create(Arc::new(graph), PARAMS, ROWS)?)?;
    let exact = rows::<F32>(metric)?;
    for id in 0..ROWS {
        index.append(&row(id), label(id))?;
        exact.push(&row(id))?;
    }
    index.link_pending()?;
    let bytes =
        if with_exact { snapshot::save_with_exact(&index, &exact, &path)? } else { snapshot::save(&index, &path)? };
    println!("{}: {bytes} bytes, checksum {:#010x}", path.display(), crc32c::crc32c(&std::fs::read(&path)?));
    Ok(())
}
